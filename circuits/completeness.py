"""Completeness and minimality: does the circuit hold everything that the model uses, and nothing else?

Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593), section 4. F is the mean of the metric, M the
model, C the circuit and K a set of nodes; to take nodes away is to ablate every edge out of them.

* complete: for every K within C, F(C \\ K) is near F(M \\ K). What differs points at nodes that stand in for others
  and are missing from the circuit.
* minimal: for every node v of C there is a K such that taking v away from C \\ K, too, makes a difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.experiment import Experiment
from circuits.graph import Edges
from workbench.errors import SettingError


@dataclass(frozen=True, eq=False)
class Completeness:
    """For each set of nodes, what the circuit and the model do without it."""

    sets: Mapping[str, tuple[str, ...]]
    circuit: Float[Tensor, " set"]
    """F(C \\ K)."""
    model: Float[Tensor, " set"]
    """F(M \\ K)."""
    clean: float
    """F(M)."""

    @property
    def incompleteness(self) -> Float[Tensor, " set"]:
        """|F(C \\ K) - F(M \\ K)|."""
        return (self.circuit - self.model).abs()

    def __str__(self) -> str:
        lines = [f"Completeness over {len(self.sets)} sets of nodes (the model: {self.clean:.3f})"]
        lines.append("   |C∖K - M∖K|     C∖K     M∖K   K")
        order = self.incompleteness.argsort(descending=True).tolist()
        names = list(self.sets)
        for number in order:
            row = (self.incompleteness[number], self.circuit[number], self.model[number])
            lines.append("  {:>12.3f}  {:>6.3f}  {:>6.3f}".format(*map(float, row)) + f"   {names[number]}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        rows = zip(self.sets.items(), self.circuit.tolist(), self.model.tolist(), strict=True)
        sets = [{"name": name, "nodes": list(nodes), "circuit": c, "model": m} for (name, nodes), c, m in rows]
        return {"clean": self.clean, "sets": sets}


@dataclass(frozen=True, eq=False)
class Minimality:
    """For each node of a circuit, the largest difference that it makes within some C \\ K."""

    nodes: tuple[str, ...]
    difference: Float[Tensor, " node"]
    """max over K of |F(C \\ (K ∪ {v})) - F(C \\ K)|."""
    sets: tuple[str, ...]
    """The K of each node for which that is so."""
    clean: float

    def __str__(self) -> str:
        lines = [f"Minimality of {len(self.nodes)} nodes (share of the model's {self.clean:.3f} that a node makes)"]
        for number in self.difference.argsort().tolist():
            share = float(self.difference[number]) / abs(self.clean)
            lines.append(f"  {share:>7.1%}  {self.nodes[number]:<10} without {self.sets[number]}")
        return "\n".join(lines)


def completeness(experiment: Experiment, circuit: Circuit, sets: Mapping[str, Sequence[str]]) -> Completeness:
    """F(C \\ K) and F(M \\ K) for named sets of nodes: by class, or from `random_sets` and `greedy_sets`.

    Raises `SettingError` for a node that the graph does not have.
    """
    graph = experiment.graph
    taken = [_nodes(circuit, names) for names in sets.values()]
    whole = graph.edges.expand_as(circuit.edges)
    return Completeness(
        {name: tuple(names) for name, names in sets.items()},
        _means(experiment, [circuit.edges & ~nodes for nodes in taken]),
        _means(experiment, [whole & ~nodes for nodes in taken]),
        float(experiment.clean.mean()),
    )


def random_sets(circuit: Circuit, count: int = 10, *, seed: int = 0) -> dict[str, list[str]]:
    """Sets that hold each node of the circuit, the input apart, by the toss of a coin."""
    nodes = _candidates(circuit)
    generator = torch.Generator().manual_seed(seed)
    tosses = torch.rand(count, len(nodes), generator=generator) < 0.5
    return {
        f"random {number}": [node for node, taken in zip(nodes, row, strict=True) if taken]
        for number, row in enumerate(tosses.tolist())
    }


def greedy_sets(
    experiment: Experiment,
    circuit: Circuit,
    *,
    runs: int = 10,
    candidates: int = 10,
    steps: int = 10,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Sets built to show incompleteness: node by node, the one of some random candidates that makes it largest.

    From each run, the set at the step where it was largest (Wang et al. 2022, appendix on greedy optimisation).
    """
    nodes = _candidates(circuit)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[str]] = {}
    for run in range(runs):
        taken: list[str] = []
        best: tuple[float, list[str]] = (-1.0, [])
        for _ in range(min(steps, len(nodes))):
            left = [node for node in nodes if node not in taken]
            drawn = [left[i] for i in torch.randperm(len(left), generator=generator)[:candidates].tolist()]
            result = completeness(experiment, circuit, {node: [*taken, node] for node in drawn})
            worst = int(result.incompleteness.argmax())
            taken = [*taken, drawn[worst]]
            best = max(best, (float(result.incompleteness[worst]), taken))
        found[f"greedy {run}"] = best[1]
    return found


def minimality(experiment: Experiment, circuit: Circuit, sets: Mapping[str, Sequence[str]]) -> Minimality:
    """The largest difference that each node of the circuit makes to C \\ K, over K = ∅ and the sets given."""
    nodes = _candidates(circuit)
    named = {"nothing": (), **sets}
    without = {name: circuit.edges & ~_nodes(circuit, taken) for name, taken in named.items()}
    base = dict(zip(named, _means(experiment, list(without.values())).tolist(), strict=True))
    largest, where = torch.zeros(len(nodes)), ["nothing"] * len(nodes)
    for name, edges in without.items():
        tested = [number for number, node in enumerate(nodes) if node not in named[name]]
        values = _means(experiment, [edges & ~_nodes(circuit, [nodes[number]]) for number in tested])
        for number, difference in zip(tested, (values - base[name]).abs().tolist(), strict=True):
            if difference > largest[number]:
                largest[number], where[number] = difference, name
    return Minimality(tuple(nodes), largest, tuple(where), float(experiment.clean.mean()))


def _candidates(circuit: Circuit) -> list[str]:
    return circuit.nodes[1:] if circuit.nodes[:1] == [circuit.graph.sources[0]] else circuit.nodes


def _nodes(circuit: Circuit, names: Sequence[str]) -> Bool[Tensor, " source"]:
    sources = circuit.graph.sources
    if unknown := [name for name in names if name not in sources]:
        raise SettingError(f"no node {unknown[0]!r} in this graph; a node is named like {sources[1]!r}")
    taken = torch.zeros(len(sources), dtype=torch.bool)
    taken[[sources.index(name) for name in names]] = True
    return taken


def _means(experiment: Experiment, circuits: list[Edges]) -> Float[Tensor, " circuit"]:
    if not circuits:
        return torch.zeros(0)
    return experiment.values(torch.stack(circuits)).mean(1)
