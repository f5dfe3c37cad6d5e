"""Gradient scores of all edges at once: differences of the sources times gradients at the destinations.

score(u -> v) = (ablated(u) - clean(u)) · ∂ metric / ∂ read(v), summed over positions, averaged over examples.

No head's input is copied and no head's output is kept. The gradient is taken at the queries, keys and values as the
model computes them, and brought back through each head's weights and the norm's Jacobian; the difference of a head is
expanded from its mixed values. Both are done for a few positions at a time, with one matrix product a layer, so that
what is held between the passes is 1 + 2·layers streams of width d_model and not one a node.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.experiment import Batch, Experiment
from circuits.layout import Trace
from circuits.scores.result import EdgeScores
from circuits.stages import Stream, Taps

EXPANDED = 2**24
"""Bytes that the expanded differences of all sources take at a time."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of the metric, summed over `points` runs of each example. Rows are [point example]."""

    points: int
    first: int
    """The stage that the lists begin with; that before it, the input being -1, is what the first of `added` is of."""
    reads: list[Stream]
    """The stream before each stage."""
    taps: list[Taps]
    """Gradients at the taps of each stage."""
    added: list[Stream]
    """Gradients at what each stage before the next adds to the residual stream."""
    states: list[Tensor] | None = None
    """What the nodes wrote, where that is not what they write in the clean run; of one point."""


def gradients_of(batch: Batch, trace: Trace, points: int, first: int = 0) -> Gradients:
    """Back from the metric through a run that kept its taps."""
    total = batch.values(trace.logits.unflatten(0, (points, -1))).sum()
    wanted = [*(tap for stage in trace.taps for tap in stage), *trace.added]
    open_ = [x for x in wanted if x.requires_grad]
    found = dict(zip(map(id, open_), torch.autograd.grad(total, open_, allow_unused=True), strict=True))
    parts = iter(torch.zeros_like(x) if found.get(id(x)) is None else found[id(x)] for x in wanted)
    taps = [tuple(next(parts) for _ in stage) for stage in trace.taps]
    reads = [trace.streams[span.reads].detach() for span in batch.layout.graph.spans[first:]]
    return Gradients(points, first, reads, taps, list(parts))


@torch.enable_grad()
def gradients(batch: Batch, embedded: Float[Tensor, "point n pos d_model"]) -> Gradients:
    """Run from each of the embeddings, and back."""
    trace = batch.layout.run(embedded.flatten(0, 1).detach().requires_grad_(), taps=True)
    return gradients_of(batch, trace, len(embedded))


@torch.enable_grad()
def gate_gradients(batch: Batch, gate: float) -> Gradients:
    """Run with a gate on every edge that lets this share of a difference through, and back.

    As all gates are alike, the destinations of a stage read one stream, and it is enough to change what stages add.
    """
    layout, ablated, embedded = batch.layout, batch.ablated.states, batch.clean.states[0]

    def through(number: int, added: Stream) -> Stream:
        away = layout.added(number, ablated)
        return away + gate * (added - away)

    trace = layout.run(through(-1, embedded).requires_grad_(), taps=True, adds=through)
    states = [embedded, *(state.detach() for state in trace.states[1:])]
    return replace(gradients_of(batch, trace, 1), states=states)


@dataclass(eq=False)
class Accumulator:
    """Adds up the scores of edges and nodes over batches."""

    experiment: Experiment
    by_position: bool = False
    with_edges: bool = True
    edges: Tensor = field(init=False)
    nodes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        graph, device = self.experiment.graph, self.experiment.device
        leading = [self.experiment.length] if self.by_position else []
        self.edges = torch.zeros(*leading, *graph.edges.shape, device=device)
        self.nodes = torch.zeros(*leading, len(graph.sources), device=device)

    def add(self, batch: Batch, found: Gradients, sources_of: range) -> None:
        """Differences of the nodes of some stages (the input being stage -1), times gradients summed over points."""
        layout = batch.layout
        n, length, width = batch.clean.states[0].shape
        a_position = n * width * len(layout.graph.sources) * batch.clean.states[0].element_size()
        step = max(1, EXPANDED // a_position)
        for start in range(0, length, step):
            self._add_part(batch, found, sources_of, slice(start, min(start + step, length)))

    def _add_part(self, batch: Batch, found: Gradients, sources_of: range, positions: slice) -> None:
        layout, graph = batch.layout, self.experiment.graph
        runs = (found.states or batch.clean.states, batch.ablated.states)
        written, ablated = ([state[:, positions] for state in states] for states in runs)
        differences = torch.cat([layout.difference(number, ablated, written) for number in sources_of])
        spans = [graph.spans[number].sources if number >= 0 else range(1) for number in sources_of]
        first = spans[0].start
        for number, (read, taps) in enumerate(zip(found.reads, found.taps, strict=True), start=found.first):
            span = graph.spans[number]
            if self.with_edges and span.reads > first:
                pulled = layout.stages[number].pull(read, taps, positions)
                pulled = pulled.unflatten(1, (found.points, -1)).sum(1)
                known = differences[: span.reads - first]
                rows = slice(span.destinations.start, span.destinations.stop)
                columns = slice(first, first + len(known))
                if self.by_position:
                    self.edges[positions, rows, columns] += torch.einsum("vnsd,unsd->svu", pulled, known).float()
                else:
                    self.edges[rows, columns] += (pulled.flatten(1) @ known.flatten(1).T).float()
        for number, span in zip(sources_of, spans, strict=True):
            gradient = found.added[number + 1 - found.first][:, positions].unflatten(0, (found.points, -1)).sum(0)
            products = (differences[span.start - first : span.stop - first] * gradient).sum(-1).float()
            columns = slice(span.start, span.stop)
            if self.by_position:
                self.nodes[positions, columns] += products.sum(1).T
            else:
                self.nodes[columns] += products.flatten(1).sum(1)

    def mean(self, total: Tensor, points: int) -> Tensor:
        """Over examples and points."""
        return total.cpu() / (len(self.experiment) * points)

    def result(self, method: str, points: int) -> EdgeScores:
        """The mean over examples and points, of which so many were added for each."""
        edges, nodes = (self.mean(total, points) for total in (self.edges, self.nodes))
        return EdgeScores(self.experiment.graph, edges, method, self.experiment.facts, nodes)


def between(batch: Batch, shares: list[float]) -> Float[Tensor, "point n pos d_model"]:
    """Embeddings at shares of the way from the ablated (0) to the clean (1) one."""
    clean, ablated = batch.clean.states[0], batch.ablated.states[0]
    return torch.stack([ablated + share * (clean - ablated) for share in shares])


def at_points(experiment: Experiment, shares: list[float], method: str, by_position: bool) -> EdgeScores:
    """Differences times the mean gradient over runs from embeddings at shares of the way to the clean one."""
    total = Accumulator(experiment, by_position)
    for batch in experiment.batches:
        for some in experiment.together(batch, shares):
            total.add(batch, gradients(batch, between(batch, some)), range(-1, len(experiment.graph.spans) - 1))
    return total.result(method, len(shares))


def at_gates(experiment: Experiment, gates: list[float], method: str) -> EdgeScores:
    """Differences times gradients, the mean over runs in which every edge lets such a share of its difference through.

    That is minus the gradient of the metric with respect to the gate of each edge.
    """
    total = Accumulator(experiment)
    for batch in experiment.batches:
        for gate in gates:
            total.add(batch, gate_gradients(batch, gate), range(-1, len(experiment.graph.spans) - 1))
    return total.result(method, len(gates))
