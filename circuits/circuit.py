"""A circuit: some of the edges of a graph, with where they come from; a JSON file on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.graph import Edges, Graph, graph_from_json
from workbench.errors import DamagedFile, SettingError
from workbench.files import read_json, write_json

FORMAT = "interp-workbench circuit 1"


@dataclass(frozen=True, eq=False)
class Circuit:
    """A set of edges of a graph. Raises `SettingError` if it holds edges that the graph has not."""

    graph: Graph
    edges: Edges
    """On the CPU. With a leading axis of positions, the edges of each position for themselves."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was found, as JSON values: model, task, method, …"""

    def __post_init__(self) -> None:
        if self.edges.shape[-2:] != self.graph.edges.shape:
            raise SettingError(f"edges are {list(self.edges.shape)}; this graph's are {list(self.graph.edges.shape)}")
        if (self.edges & ~self.graph.edges).any():
            raise SettingError("a circuit holds an edge that the graph does not have")

    @property
    def by_position(self) -> bool:
        """Whether it has the edges of each position for themselves."""
        return self.edges.ndim > 2

    @property
    def n_edges(self) -> int:
        """Edges in the circuit, those of each position counted."""
        return int(self.edges.sum())

    @property
    def n_possible(self) -> int:
        """Edges that it could have."""
        return self.graph.n_edges * (len(self.edges) if self.by_position else 1)

    @property
    def names(self) -> list[str]:
        """The edges by name, whatever their position."""
        return self.graph.names(self._flat)

    @property
    def nodes(self) -> list[str]:
        """The sources that an edge leaves, in the order of computation."""
        return [self.graph.sources[number] for number in self._flat.any(0).nonzero()[:, 0].tolist()]

    @property
    def _flat(self) -> Tensor:
        return self.edges.any(0) if self.by_position else self.edges

    def pruned(self) -> "Circuit":
        """Without the edges that lie on no path from the input to the logits."""
        return replace(self, edges=self.graph.prune(self.edges))

    def __str__(self) -> str:
        made = ", ".join(f"{key} {value}" for key, value in self.facts.items())
        share = f"{self.n_edges:,} of {self.n_possible:,} edges ({self.n_edges / self.n_possible:.2%})"
        lines = [f"Circuit of {share}, {len(self.nodes)} of {len(self.graph.sources)} nodes", *([made] if made else [])]
        shown = self.names[:20]
        lines += [f"  {name}" for name in shown]
        if len(self.names) > len(shown):
            lines.append(f"  … and {len(self.names) - len(shown):,} more")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        where = self.edges.nonzero().tolist()
        name = self.graph.edge_name
        return {
            "format": FORMAT,
            "facts": dict(self.facts),
            "graph": self.graph.to_json(),
            "n_positions": len(self.edges) if self.by_position else None,
            "edges": [name(*index) if len(index) == 2 else [index[0], name(*index[1:])] for index in where],
        }

    def save(self, path: str | Path) -> None:
        """Write one JSON file: the graph's nodes, and the edges by name (with their position, if they have one)."""
        write_json(path, self.to_json())


def load_circuit(path: str | Path) -> Circuit:
    """Read what `Circuit.save` wrote; raises `DamagedFile` for anything else."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DamagedFile(f"{path} is not a circuit written by this workbench")
    try:
        graph = graph_from_json(value["graph"])
        positions = value["n_positions"]
        edges = torch.zeros(*([positions] if positions else []), *graph.edges.shape, dtype=torch.bool)
        for entry in value["edges"]:
            edges[graph.edge(entry) if positions is None else (entry[0], *graph.edge(entry[1]))] = True
        return Circuit(graph, edges, value["facts"])
    except (KeyError, TypeError, IndexError, ValueError, SettingError) as error:
        raise DamagedFile(f"{path} is a damaged circuit ({error})") from None
