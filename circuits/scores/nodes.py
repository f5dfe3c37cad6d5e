"""Node attribution: a first-order estimate of the effect of ablating each source as a whole."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.experiment import Experiment
from circuits.graph import Graph
from circuits.scores.gradients import Accumulator, between, gradients
from circuits.scores.ig import shares
from workbench.errors import SettingError


@dataclass(frozen=True, eq=False)
class NodeScores:
    """The effect of ablating each source, on all that reads it; sign and scale as of `EdgeScores`."""

    graph: Graph
    values: Float[Tensor, "*pos source"]
    method: str
    facts: dict[str, Any]

    def circuit(self, n_nodes: int) -> Circuit:
        """All edges between the input, the `n_nodes` nodes of largest absolute effect, and the logits."""
        flat = self.values.sum(0) if self.values.ndim > 1 else self.values
        if not 0 <= n_nodes < len(flat):
            raise SettingError(f"n_nodes is {n_nodes}; it must be between 0 and {len(flat) - 1}")
        chosen = torch.zeros(len(flat), dtype=torch.bool)
        chosen[0] = True
        chosen[1 + flat[1:].abs().argsort(descending=True, stable=True)[:n_nodes]] = True
        facts = {"method": self.method, "n_nodes": n_nodes, **self.facts}
        return Circuit(self.graph, between_nodes(self.graph, chosen), facts).pruned()

    def __str__(self) -> str:
        flat = self.values.sum(0) if self.values.ndim > 1 else self.values
        order = flat.abs().argsort(descending=True)[:10].tolist()
        lines = [f"{self.method}: effects of {len(flat)} nodes on {self.facts['metric']}"]
        return "\n".join(lines + [f"  {flat[node].item():+.4f}  {self.graph.sources[node]}" for node in order])


def between_nodes(graph: Graph, chosen: Bool[Tensor, " source"]) -> Bool[Tensor, "destination source"]:
    """All edges from chosen nodes into chosen nodes and the logits."""
    reads = (graph.feeds & chosen).any(1)
    reads[-1] = True
    return graph.edges & reads[:, None] & chosen


def node_attribution(
    experiment: Experiment, *, steps: int = 1, rule: str = "paper", by_position: bool = False
) -> NodeScores:
    """(ablated - clean) · gradient at the residual stream where the node writes, as of Nanda 2023.

    With more steps, the mean gradient on the way from the ablated to the clean embedding. The effect of a node is the
    sum of the effects that `eap` or `eap_ig_inputs` give the edges that leave it.
    """
    total = Accumulator(experiment, by_position, with_edges=False)
    for batch in experiment.batches:
        for some in experiment.together(batch, shares(steps, rule)):
            total.add(batch, gradients(batch, between(batch, some)), range(-1, len(experiment.graph.spans) - 1))
    method = "node-attribution" if steps == 1 else "node-attribution-ig"
    return NodeScores(experiment.graph, total.mean(total.nodes, steps), method, experiment.facts)
