"""Circuit runs: the model with only some edges in place.

A destination reads what it would read in the fully ablated run, and for each edge of the circuit the difference between
what the source writes in this run and what it writes when ablated:

    read(v) = ablated read(v) + Σ over edges u -> v of the circuit: written(u) - ablated(u)

That equals the clean stream with every other edge patched (Hanna et al. 2024, `evaluate`), but costs only what the
circuit has: nodes that no edge leaves are never computed. With all edges the run is the clean run, with none the
ablated one. Of several circuits that are run together, what is the same in all is computed once; the last layer that
looks back is computed for the last query only, and what comes after it at the last position.

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
    graph = layout.graph
    first = next(span.destinations.start for span in graph.spans if span.sources.start >= known or not span.sources)
    gates = circuits[..., first:, :]  # the rest leads to sources that are known
    used, differ = torch.zeros_like(graph.edges), torch.zeros_like(graph.edges)
    used[first:] = True if circuits.requires_grad else _flat(gates != 0)
    differ[first:] = _flat(gates != gates[:1])
    needed = _needed(layout, used)
    alike = _alike(layout, circuits, used, differ, known)
    shared = alike[torch.cat(needed)]
    pool = _Pool(gates.to(clean.logits), differ[first:].any(1), int(shared.sum()), int((~shared).sum()))
    pool.add(needed[0], layout.difference(-1, clean.states, ablated.states)[None])
    for number, (span, stage) in enumerate(zip(graph.spans, layout.last, strict=True)):
        nodes = needed[number + 1]
        if span.sources and span.sources.start < known:
            if len(nodes):
                which = nodes - span.sources.start
                pool.add(nodes, layout.difference(number, clean.states, ablated.states, which)[None])
            continue
        positions = slice(-1 if number >= layout.settled else None, None)
        away = ablated.streams[span.reads][:, positions]
        if not span.sources:
            which = torch.zeros(1, dtype=torch.long)
            reads = pool.reads(away, span.destinations.start - first + stage.inputs(which), positions)
            return stage.split(reads, which)[:, 0].expand(len(circuits), -1, -1)
        for together in (True, False):
            some = nodes[alike[nodes] == together]
            if len(some):
                which = some - span.sources.start
                destinations = span.destinations.start - first + stage.inputs(which)
                written = stage.split(pool.reads(away, destinations, positions, together=together), which)
                pool.add(some, written - layout.expand(number, ablated.states, which)[..., -written.shape[3] :, :])
    raise AssertionError("a graph ends in the logits")


class _Pool:
    """The differences written so far, of all circuits together or of each, and their sums over edges."""

    def __init__(
        self,
        gates: Float[Tensor, "circuit *pos destination source"],
        differ: Bool[Tensor, " destination"],
        shared: int,
        own: int,
    ) -> None:
        """There will be so many sources that write the same in all circuits, and that do not.

        `differ`: whether the edges into a destination are not the same in all circuits.
        """
        self.gates, self.differ, self.shared, self.own = gates, differ, shared, own
        self.blocks: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.buffers: dict[int, Tensor] = {}

    def add(self, nodes: Int[Tensor, " u"], differences: Float[Tensor, "c u n pos d_model"]) -> None:
        """Differences that are the same in all circuits (c = 1), or those of each; at all positions, or the last."""
        count = len(differences)
        blocks = self.blocks.setdefault(count, [])
        if self.gates.requires_grad:
            blocks.append((nodes, differences))
            return
        # one block of memory, so that a sum over all sources is one matrix product
        if count not in self.buffers:
            capacity = self.shared if count == 1 else self.own
            self.buffers[count] = differences.new_empty(count, capacity, *differences.shape[2:])
        before = blocks[0][0] if blocks else nodes[:0]
        block = self.buffers[count][:, len(before) : len(before) + len(nodes)]
        block[..., : -differences.shape[3], :] = 0  # a closed gate would let a NaN through
        block[..., -differences.shape[3] :, :] = differences
        nodes = torch.cat([before, nodes])
        self.blocks[count] = [(nodes, self.buffers[count][:, : len(nodes)])]

    def reads(
        self,
        ablated: Float[Tensor, "#n pos_ d_model"],
        destinations: Int[Tensor, " v"],
        positions: slice,
        *,
        together: bool = False,
    ) -> Float[Tensor, "c v n pos_ d_model"]:
        """What each destination reads in every circuit, or `together` in all of them, at some positions.

        `ablated` is what they read there in the ablated run.
        """
        once = together or not self.differ[destinations].any()
        gates = (self.gates[:1] if once else self.gates)[..., destinations, :]
        if gates.ndim > 3:
            gates = gates[:, positions]
        total = ablated
        for count, blocks in self.blocks.items():  # those of all circuits come first
            if count == 1 or not together:
                for nodes, block in blocks:
                    total = _add(total, gates[..., nodes], block[..., positions, :])
        return total


def _add(
    total: Float[Tensor, "*circuit_v #n pos d_model"],
    gates: Float[Tensor, "#circuit *pos v u"],
    differences: Float[Tensor, "#circuit u n pos d_model"],
) -> Float[Tensor, "circuit v n pos d_model"]:
    """What is read, and what comes to it through gates. A new tensor: adding is fused with the matrix product."""
    shape = differences.shape[2:]
    if gates.ndim > 3:
        count = max(len(gates), len(differences))
        gates, differences = (x.expand(count, -1, -1, -1, *x.shape[4:]) for x in (gates, differences))
        return total + torch.einsum("csvu,cunsd->cvnsd", gates, differences)
    flat, total = differences.flatten(2), total.expand(*total.shape[:-3], *shape).flatten(-3)
    if len(differences) > 1:
        return torch.baddbmm(total, gates.expand(len(differences), -1, -1), flat).unflatten(2, shape)
    if total.ndim > 1:
        total = total.flatten(0, 1)
    return torch.addmm(total, gates.flatten(0, 1), flat[0]).unflatten(0, gates.shape[:2]).unflatten(2, shape)


def _flat(edges: Bool[Tensor, "circuit *pos destination source"]) -> Bool[Tensor, "destination source"]:
    """Edges that are in any circuit at any position."""
    return edges.flatten(0, -3).any(0).cpu()


def _needed(layout: Layout, used: Bool[Tensor, "destination source"]) -> list[Int[Tensor, " u"]]:
    """The sources that are read on a way to the logits: the input, then those of each stage."""
    read = torch.zeros(len(used), dtype=torch.bool)
    needed: list[Tensor] = []
    for span, stage in zip(reversed(layout.graph.spans), reversed(layout.stages), strict=True):
        first, last = span.sources.start, span.sources.stop
        wanted = used[read, first:last].any(0)
        which = torch.ones_like(wanted) if stage.coupled and wanted.any() else wanted
        which = which.nonzero()[:, 0]
        if len(which) or not span.sources:
            read[span.destinations.start + stage.inputs(which)] = True
        needed.append(first + which)
    return [torch.zeros(1, dtype=torch.long), *reversed(needed)]


def _alike(
    layout: Layout,
    circuits: Gates,
    used: Bool[Tensor, "destination source"],
    differ: Bool[Tensor, "destination source"],
    known: int,
) -> Bool[Tensor, " source"]:
    """The sources that write the same in all of the circuits."""
    graph = layout.graph
    alike = torch.zeros(used.shape[1], dtype=torch.bool)
    alike[:known] = True
    if circuits.requires_grad and len(circuits) > 1:
        return alike
    for span, stage in zip(graph.spans[:-1], layout.stages, strict=False):
        rows = slice(span.destinations.start, span.destinations.stop)
        columns = slice(span.sources.start, span.sources.stop)
        reads_alike = ~(differ[rows] | (used[rows] & ~alike)).any(1)
        writes_alike = ~(graph.feeds[rows, columns] & ~reads_alike[:, None]).any(0)
        alike[columns] |= writes_alike.all() if stage.coupled else writes_alike
    return alike
