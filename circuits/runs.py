"""Circuit runs: the model with only some edges in place.

A destination reads what it would read in the fully ablated run, and for each edge of the circuit the difference between
what the source writes in this run and what it writes when ablated:

    read(v) = ablated read(v) + Σ over edges u -> v of the circuit: written(u) - ablated(u)

That equals the clean stream with every other edge patched (Hanna et al. 2024, `evaluate`), but costs only what the
circuit has: nodes that no edge leaves are never computed. With all edges the run is the clean run, with none the
ablated one.

A norm after a layer (Gemma 2) divides the sum of its nodes; each node is said to write its own share of the sum,
divided by the norm of this very run, so that the shares add up exactly.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.layout import Layout, Trace

Gates = Bool[Tensor, "circuit *pos destination source"] | Float[Tensor, "circuit *pos destination source"]


def run_circuits(
    layout: Layout, clean: Trace, ablated: Trace, circuits: Gates, *, known: int = 1
) -> Float[Tensor, "circuit n d_vocab"]:
    """Logits at the last position with only the edges of each circuit in place.

    Gates between 0 and 1 let that share of a difference through, and gradients with respect to them. The first `known`
    sources are taken from the clean run: in every circuit, all edges before them must be in place.
    """
    graph, length = layout.graph, clean.states[0].shape[1]
    gates = circuits.to(clean.logits)
    needed = _needed(layout, torch.ones_like(circuits, dtype=torch.bool) if circuits.requires_grad else circuits)
    pool = _Pool(gates, sum(map(len, needed)))
    pool.share(needed[0], _difference(layout, -1, clean, ablated, None))
    for number, (span, stage) in enumerate(zip(graph.spans, layout.stages, strict=True)):
        nodes = needed[number + 1]
        which = nodes - span.sources.start
        if span.sources and not len(nodes):
            continue
        if span.sources and span.sources.start < known:
            pool.share(nodes, _difference(layout, number, clean, ablated, which))
            continue
        destinations = span.destinations.start + stage.inputs(which)
        positions = slice(None) if span.sources else slice(length - 1, None)
        reads = ablated.reads[number][:, positions] + pool.mix(destinations, positions)
        written = stage.split(reads, which)
        if not span.sources:
            return written[:, 0]
        pool.add(nodes, written - layout.expand(number, ablated.states, which))
    raise AssertionError("a graph ends in the logits")


class _Pool:
    """The differences written so far, and their sums over the edges into a destination."""

    def __init__(self, gates: Float[Tensor, "circuit *pos destination source"], capacity: int) -> None:
        self.gates, self.capacity = gates, capacity
        self.shared: list[tuple[Tensor, Tensor]] = []
        self.own: list[tuple[Tensor, Tensor]] = []
        self.buffer: Tensor | None = None
        self.filled = 0

    def share(self, nodes: Int[Tensor, " u"], differences: Float[Tensor, "u n pos d_model"]) -> None:
        """Differences that are the same in all circuits."""
        self.shared.append((nodes, differences))

    def add(self, nodes: Int[Tensor, " u"], differences: Float[Tensor, "circuit u n pos d_model"]) -> None:
        """Differences of each circuit."""
        if self.gates.requires_grad:
            self.own.append((nodes, differences))
            return
        if self.buffer is None:  # one block of memory, so that a sum over all sources is one matrix product
            room = self.capacity - sum(len(nodes) for nodes, _ in self.shared)
            self.buffer = differences.new_empty(len(differences), room, *differences.shape[2:])
        start, self.filled = self.filled, self.filled + len(nodes)
        self.buffer[:, start : self.filled] = differences
        before = self.own[0][0] if self.own else nodes[:0]
        self.own = [(torch.cat([before, nodes]), self.buffer[:, : self.filled])]

    def mix(self, destinations: Int[Tensor, " v"], positions: slice) -> Float[Tensor, "circuit v n pos d_model"]:
        """The sum that reaches each destination."""
        if len(self.shared) > 1 and not self.gates.requires_grad:
            nodes, differences = zip(*self.shared, strict=True)
            self.shared = [(torch.cat(nodes), torch.cat(differences))]
        gates = self.gates[..., destinations, :]
        if gates.ndim > 3:
            gates = gates[:, positions]
        blocks = [(nodes, block[None]) for nodes, block in self.shared] + self.own
        return sum(_mix(gates[..., nodes], block[..., positions, :]) for nodes, block in blocks)


def _mix(
    gates: Float[Tensor, "circuit *pos v u"], differences: Float[Tensor, "c u n pos d_model"]
) -> Float[Tensor, "circuit v n pos d_model"]:
    if gates.ndim > 3:
        differences = differences.expand(len(gates), -1, -1, -1, -1)
        return torch.einsum("csvu,cunsd->cvnsd", gates, differences)
    flat = differences.flatten(2)
    if len(differences) == 1:
        mixed = (gates.flatten(0, 1) @ flat[0]).unflatten(0, gates.shape[:2])
    else:
        mixed = torch.bmm(gates, flat)
    return mixed.unflatten(2, differences.shape[2:])


def _difference(
    layout: Layout, number: int, clean: Trace, ablated: Trace, which: Int[Tensor, " u"] | None
) -> Float[Tensor, "u n pos d_model"]:
    return layout.expand(number, clean.states, which) - layout.expand(number, ablated.states, which)


def _needed(layout: Layout, circuits: Bool[Tensor, "circuit *pos destination source"]) -> list[Int[Tensor, " u"]]:
    """The sources that any of the circuits reads on a way to the logits: the input, then those of each stage."""
    used = circuits.flatten(0, -3).any(0)
    read = torch.zeros(len(used), dtype=torch.bool, device=used.device)
    needed: list[Tensor] = []
    for span, stage in zip(reversed(layout.graph.spans), reversed(layout.stages), strict=True):
        first, last = span.sources.start, span.sources.stop
        wanted = used[read, first:last].any(0)
        which = torch.ones_like(wanted) if stage.coupled and wanted.any() else wanted
        which = which.nonzero()[:, 0]
        if len(which) or not span.sources:
            read[span.destinations.start + stage.inputs(which)] = True
        needed.append(first + which)
    return [torch.zeros(1, dtype=torch.long, device=used.device), *reversed(needed)]
