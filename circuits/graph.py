"""The computational graph of a transformer: who writes into the residual stream, and who reads from it.

A *source* writes: the input (the embedding of tokens and positions), each attention head, each MLP. A *destination*
reads: the queries of each head, the keys and values of each key-value head, each MLP, and the logits. What a
destination reads is the sum of what all earlier sources wrote, so an *edge* runs from each source to each later
destination (Goldowsky-Dill et al. 2023, arXiv:2304.05969; Conmy et al. 2023, arXiv:2304.14997).

Nodes are numbered in the order in which they are computed, and every destination reads a first part of the sources.
So the graph is two lists of names and a few index maps, and a set of edges is one tensor [destination, source]; there
is no object per edge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import SettingError
from workbench.model import HookedModel

INPUT, LOGITS, REST = "input", "logits", "rest"

Edges = Bool[Tensor, "*pos destination source"]
"""A set of edges: true where an edge is in it. With an axis of positions, an edge of each position for itself."""


class Span(NamedTuple):
    """The nodes that are computed side by side: the heads of a layer, an MLP, the logits."""

    reads: int
    """Its destinations read the sources 0 .. reads - 1."""
    destinations: range
    sources: range


@dataclass(frozen=True, eq=False)
class Graph:
    """Names and index maps of nodes. Nodes of one `Span` cannot see each other."""

    sources: tuple[str, ...]
    """In the order of computation, the input first: `input`, `a0.h3`, `m0`."""
    destinations: tuple[str, ...]
    """In the order of computation, the logits last: `a0.h3<q>`, `a0.h3<k>` (or `a0.kv1<k>`), `m0`, `logits`."""
    spans: tuple[Span, ...]
    """In the order of computation; the input has none, and the last one is the logits."""
    feeds: Bool[Tensor, "destination source"]
    """Whether a destination is an input of the node that the source is the output of."""

    def __repr__(self) -> str:
        counts = f"{len(self.sources)} sources, {len(self.destinations)} destinations, {self.n_edges} edges"
        return f"Graph({counts})"

    @cached_property
    def reads(self) -> Int[Tensor, " destination"]:
        """How many of the sources each destination reads."""
        return torch.tensor([span.reads for span in self.spans for _ in span.destinations])

    @cached_property
    def edges(self) -> Bool[Tensor, "destination source"]:
        """All edges that there are."""
        return torch.arange(len(self.sources)) < self.reads[:, None]

    @property
    def n_edges(self) -> int:
        """The number of edges, positions not told apart."""
        return int(self.reads.sum())

    def edge_name(self, destination: int, source: int) -> str:
        """As `a0.h3->m2`."""
        return f"{self.sources[source]}->{self.destinations[destination]}"

    @cached_property
    def _numbers(self) -> tuple[dict[str, int], dict[str, int]]:
        """Destinations and sources by name."""
        return tuple({name: number for number, name in enumerate(names)} for names in (self.destinations, self.sources))

    def edge(self, name: str) -> tuple[int, int]:
        """(destination, source) of an edge by its name. Raises `SettingError` if there is no such edge."""
        source, _, destination = name.partition("->")
        into, out = self._numbers
        if destination not in into or source not in out or not self.edges[into[destination], out[source]]:
            example = self.edge_name(0, 0)
            raise SettingError(f"no edge {name!r} in this graph; an edge is named like {example!r}")
        return into[destination], out[source]

    def subset(self, names: Iterable[str]) -> Bool[Tensor, "destination source"]:
        """The set of the edges named. Raises `SettingError` for a name that is no edge's."""
        edges = torch.zeros_like(self.edges)
        for name in names:
            edges[self.edge(name)] = True
        return edges

    def names(self, edges: Bool[Tensor, "destination source"]) -> list[str]:
        """The names of the edges in a set, in the order of computation."""
        return [self.edge_name(destination, source) for destination, source in edges.nonzero().tolist()]

    def to_json(self) -> dict[str, Any]:
        return {
            "sources": list(self.sources),
            "destinations": list(self.destinations),
            "spans": [
                [span.reads, [into.start, into.stop], [out.start, out.stop]]
                for span in self.spans
                for into, out in [span[1:]]
            ],
            "feeds": self.feeds.nonzero().tolist(),
        }

    def prune(self, edges: Edges) -> Edges:
        """The set without what no path from the input to the logits goes through.

        A node stays if it has an edge in and its output reaches the logits; that is repeated until nothing falls away
        (as in Hanna et al. 2024, `Graph.prune`). With positions, a node is one at each of them: what it writes comes
        from what its keys and values read there and before, and all else there; the logits are those of the last.
        What is pruned changes no run, but for its part in a norm that the heads of a layer share (Gemma 2).
        """
        flat = edges.ndim == 2
        edges = edges[None].clone() if flat else edges.clone()
        attended = torch.tensor([name.endswith(("<k>", "<v>")) for name in self.destinations])[:, None]
        own, earlier = (self.feeds & ~attended).float(), (self.feeds & attended).float()
        while True:
            # matrix products and running sums of 0/1 floats count paths of one step
            reads, used = edges.any(2).float(), edges.any(1).float()
            reached = (reads @ own + (reads @ earlier).cumsum(0)) > 0
            reached[:, 0] = True
            useful = (used @ own.T + (used @ earlier.T).flip(0).cumsum(0).flip(0)) > 0
            useful[-1, -1] = True
            keep = edges & useful[:, :, None] & reached[:, None, :]
            if torch.equal(keep, edges):
                return keep[0] if flat else keep
            edges = keep


def transformer_graph(
    n_layers: int,
    n_heads: int,
    n_kv_heads: int | None = None,
    *,
    parallel: bool = False,
    mlp: bool = True,
    units: Mapping[int, Sequence[str]] | None = None,
) -> Graph:
    """The graph of a decoder; `parallel` if attention and MLP of a block read the same residual stream (GPT-NeoX).

    `units`: by layer, names of the units of an MLP that are nodes of their own (`n17`); what is left of it is the node
    `m2.rest`. Each of them is a source and a destination, as a whole MLP is.

    With U = 1 + layers·(heads + 1) sources, GPT-2 small has U = 157, 445 destinations and 32,491 edges, as in Hanna et
    al. 2024 (arXiv:2403.17806). Under grouped-query attention a key-value head is one destination, not one per query
    head that uses it.
    """
    n_kv, units = n_kv_heads or n_heads, units or {}
    group = n_heads // n_kv
    sources, destinations, spans = [INPUT], [], []
    feeds: list[tuple[int, int]] = []
    for layer in range(n_layers):
        first, before = len(destinations), len(sources)
        kv = "h" if n_kv == n_heads else "kv"
        sources += [f"a{layer}.h{head}" for head in range(n_heads)]
        destinations += [f"a{layer}.h{head}<q>" for head in range(n_heads)]
        destinations += [f"a{layer}.{kv}{head}<{part}>" for part in "kv" for head in range(n_kv)]
        for head in range(n_heads):
            inputs = (head, n_heads + head // group, n_heads + n_kv + head // group)
            feeds += [(first + offset, before + head) for offset in inputs]
        spans.append(Span(before, range(first, len(destinations)), range(before, len(sources))))
        if mlp:
            reads = before if parallel else len(sources)
            node, written = len(destinations), len(sources)
            names = [f"m{layer}.{name}" for name in (*units[layer], REST)] if layer in units else [f"m{layer}"]
            sources += names
            destinations += names
            feeds += [(node + offset, written + offset) for offset in range(len(names))]
            spans.append(Span(reads, range(node, len(destinations)), range(written, len(sources))))
    spans.append(Span(len(sources), range(len(destinations), len(destinations) + 1), range(len(sources), len(sources))))
    destinations.append(LOGITS)
    into = torch.zeros(len(destinations), len(sources), dtype=torch.bool)
    into[tuple(torch.tensor(feeds).T)] = True
    return Graph(tuple(sources), tuple(destinations), tuple(spans), into)


def graph_of(model: HookedModel, units: Mapping[int, Sequence[str]] | None = None) -> Graph:
    """The graph of a model; `units` as of `transformer_graph`."""
    info, config = model.info, model.bridge.cfg
    return transformer_graph(
        info.n_layers,
        info.n_heads,
        info.n_kv_heads,
        parallel=bool(getattr(config, "parallel_attn_mlp", False)),
        mlp=not config.attn_only,
        units=units,
    )


def graph_from_json(value: dict[str, Any]) -> Graph:
    """The graph that `Graph.to_json` wrote."""
    spans = tuple(Span(reads, range(*into), range(*out)) for reads, into, out in value["spans"])
    feeds = torch.zeros(len(value["destinations"]), len(value["sources"]), dtype=torch.bool)
    for destination, source in value["feeds"]:
        feeds[destination, source] = True
    return Graph(tuple(value["sources"]), tuple(value["destinations"]), spans, feeds)
