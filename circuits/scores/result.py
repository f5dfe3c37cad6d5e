"""What every way of scoring edges comes to: a number for each, its sign and scale pinned."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.graph import Edges, Graph, graph_from_json
from workbench.errors import DamagedFile, SettingError
from workbench.files import write_tensors

Kind = Literal["effect", "importance"]


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """The effect of each edge: by how much the metric changes when that edge alone is ablated, or an estimate of it.

    Effects are means over examples in the metric's unit, whatever the batch size. On a logit difference, an edge that
    works for the answer has a *negative* effect. Methods that give no effect (information flow, learned masks) give an
    importance instead: at least 0, and larger for edges that matter more.
    """

    graph: Graph
    values: Float[Tensor, "*pos destination source"]
    """Zero where there is no edge. With a leading axis of positions, the effects at each position for themselves."""
    method: str
    facts: dict[str, Any]
    """How it was made, as JSON values: model, task, metric, ablation, examples, clean and ablated metric."""
    nodes: Float[Tensor, "*pos source"] | None = None
    """The effect of each source as a whole, where the method gives it."""
    kind: Kind = "effect"

    def importance(self, ranking: str = "absolute") -> Float[Tensor, "*pos destination source"]:
        """What edges are ranked by, the largest first.

        absolute: the size of the effect. signed: the effect in the direction in which ablating *all* edges moves the
        metric, so that what works for the clean behaviour comes first and what works against it last.
        """
        if ranking not in ("signed", "absolute"):
            raise SettingError(f"no ranking {ranking!r}; edges are ranked 'signed' or 'absolute'")
        if ranking == "absolute" or self.kind == "importance":
            return self.values.abs()
        return -self.values if self.facts["ablated"] <= self.facts["clean"] else self.values

    def top(self, n_edges: int, ranking: str = "absolute") -> Edges:
        """The set of the first `n_edges` edges; ties go to the edge that is computed first."""
        exists = self.graph.edges.expand(self.values.shape)
        order = self.importance(ranking)[exists].argsort(descending=True, stable=True)
        if not 0 <= n_edges <= len(order):
            raise SettingError(f"n_edges is {n_edges}; it must be between 0 and the graph's {len(order)}")
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[order[:n_edges]] = True
        edges = torch.zeros(self.values.shape, dtype=torch.bool)
        edges[exists] = chosen
        return edges

    def circuit(self, n_edges: int, ranking: str = "absolute") -> Circuit:
        """The circuit of the first `n_edges` edges, pruned of those on no path from the input to the logits."""
        facts = {"method": self.method, "ranking": ranking, "n_edges": n_edges, **self.facts}
        return Circuit(self.graph, self.top(n_edges, ranking), facts).pruned()

    def __str__(self) -> str:
        facts = self.facts
        about = f"{facts['examples']} examples of {facts['task']}, {facts['metric']}, {facts['ablation']} ablation"
        flat = self.values.sum(0) if self.values.ndim > 2 else self.values
        lines = [
            f"{self.method}: {self.kind} of {self.graph.n_edges:,} edges ({about})",
            f"  metric {facts['clean']:.4f} clean, {facts['ablated']:.4f} with every edge ablated",
        ]
        for index in flat.abs().flatten().argsort(descending=True)[:10].tolist():
            where = divmod(index, flat.shape[1])
            lines.append(f"  {flat[where].item():+.4f}  {self.graph.edge_name(*where)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The hundred edges that matter most."""
        flat = self.values.sum(0) if self.values.ndim > 2 else self.values
        best = [divmod(i, flat.shape[1]) for i in flat.abs().flatten().argsort(descending=True)[:100].tolist()]
        edges = [{"edge": self.graph.edge_name(*where), "effect": flat[where].item()} for where in best]
        return {"method": self.method, **self.facts, "n_edges": self.graph.n_edges, "edges": edges}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; the graph and the facts are in its metadata."""
        tensors = {"values": self.values} | ({} if self.nodes is None else {"nodes": self.nodes})
        about = {"method": self.method, "kind": self.kind, "facts": self.facts, "graph": self.graph.to_json()}
        write_tensors(path, tensors, {"edge_scores": json.dumps(about)})


def load_scores(path: str | Path) -> EdgeScores:
    """Read what `EdgeScores.save` wrote; raises `DamagedFile` for anything else."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise DamagedFile(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["edge_scores"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            graph = graph_from_json(about["graph"])
            given = about["method"], about["facts"], tensors.get("nodes"), about["kind"]
            return EdgeScores(graph, tensors["values"], *given)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedFile(f"{path} does not hold edge scores ({error})") from None
