"""Gradient scores of all edges at once: differences of the sources times gradients at the destinations.

score(u -> v) = (ablated(u) - clean(u)) · ∂ metric / ∂ read(v), summed over positions, averaged over examples.

No head's input is copied and no head's output is kept. The gradient is taken at the queries, keys and values as the
model computes them, and brought back through each head's weights and the norm's Jacobian; the difference of a head is
expanded from its mixed values. Both are done for a few positions at a time, with one matrix product a layer, so that
what is held between the passes is 1 + 2·layers streams of width d_model and not one a node.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.experiment import Batch, Experiment
from circuits.layout import Layout, Trace
from circuits.scores.result import EdgeScores, facts_of
from circuits.stages import Stream, Taps

EXPANDED = 2**26
"""Bytes that the expanded differences of all sources take at a time."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of the sum of the metric over `points` runs, each of `n` examples; rows are [point example]."""

    points: int
    reads: list[Stream]
    """The stream before each stage."""
    taps: list[Taps]
    """Gradients at the taps of each stage."""
    added: list[Stream]
    """Gradients at what the input and each stage add to the residual stream."""


def gradients(layout: Layout, batch: Batch, embedded: Float[Tensor, "point n pos d_model"]) -> Gradients:
    """Run from each of the embeddings and back."""
    with torch.enable_grad():
        trace = layout.run(embedded.flatten(0, 1).detach().requires_grad_(), taps=True)
        return _backward(batch, trace, len(embedded))


def _backward(batch: Batch, trace: Trace, points: int) -> Gradients:
    total = batch.values(trace.logits.unflatten(0, (points, -1))).sum()
    taps = [tap for stage in trace.taps for tap in stage]
    found = torch.autograd.grad(total, [*taps, *trace.added], allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for x, g in zip([*taps, *trace.added], found, strict=True)]
    parts = iter(found)
    return Gradients(
        points,
        [read.detach() for read in trace.reads],
        [tuple(next(parts) for _ in stage) for stage in trace.taps],
        list(parts),
    )


@dataclass(eq=False)
class Accumulator:
    """Adds up the scores of edges and nodes over batches."""

    experiment: Experiment
    by_position: bool = False
    edges: Tensor = field(init=False)
    nodes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        graph, pairs = self.experiment.graph, self.experiment.pairs
        leading = [pairs.clean.shape[1]] if self.by_position else []
        self.edges = torch.zeros(*leading, *graph.edges.shape, device=self.experiment.model.device)
        self.nodes = torch.zeros(*leading, len(graph.sources), device=self.experiment.model.device)

    def add(self, batch: Batch, found: Gradients) -> None:
        """Differences of the batch times the mean of the gradients over their points."""
        layout = self.experiment.layout
        n, length, width = batch.clean.states[0].shape
        a_position = n * width * len(layout.graph.sources) * batch.clean.states[0].element_size()
        step = max(1, EXPANDED // a_position)
        for start in range(0, length, step):
            self._add_part(batch, found, slice(start, min(start + step, length)))

    def _add_part(self, batch: Batch, found: Gradients, positions: slice) -> None:
        layout, points = self.experiment.layout, found.points
        clean, ablated = ([state[:, positions] for state in run.states] for run in (batch.clean, batch.ablated))
        differences = torch.cat(
            [
                layout.expand(number, ablated) - layout.expand(number, clean)
                for number in range(-1, len(layout.stages) - 1)
            ]
        )
        sums = [added.unflatten(0, (points, -1))[:, :, positions].mean(0) for added in found.added]
        for number, (span, stage) in enumerate(zip(layout.graph.spans, layout.stages, strict=True)):
            pulled = stage.pull(found.reads[number], found.taps[number], positions)
            pulled = pulled.unflatten(1, (points, -1)).mean(1)
            self._into(self.edges, span.destinations, slice(span.reads), positions, pulled, differences[: span.reads])
        for span, gradient in zip([range(1), *(span.sources for span in layout.graph.spans[:-1])], sums, strict=True):
            own = differences[span.start : span.stop]
            products = (own * gradient).sum(-1)
            where = slice(span.start, span.stop)
            if self.by_position:
                self.nodes[positions, where] += products.sum(1).T
            else:
                self.nodes[where] += products.flatten(1).sum(1)

    def _into(
        self,
        scores: Tensor,
        rows: range,
        columns: slice,
        positions: slice,
        gradient: Float[Tensor, "v n pos d_model"],
        differences: Float[Tensor, "u n pos d_model"],
    ) -> None:
        rows = slice(rows.start, rows.stop)
        if self.by_position:
            scores[positions, rows, columns] += torch.einsum("vnsd,unsd->svu", gradient, differences)
        else:
            scores[rows, columns] += gradient.flatten(1) @ differences.flatten(1).T

    def result(self, method: str) -> EdgeScores:
        """The mean over examples."""
        experiment = self.experiment
        edges, nodes = (total.cpu() / len(experiment.pairs) for total in (self.edges, self.nodes))
        return EdgeScores(experiment.graph, edges, method, facts_of(experiment), nodes)


def between(batch: Batch, shares: list[float]) -> Float[Tensor, "point n pos d_model"]:
    """Embeddings at shares of the way from the ablated (0) to the clean (1) one."""
    clean, ablated = batch.clean.states[0], batch.ablated.states[0]
    return torch.stack([ablated + share * (clean - ablated) for share in shares])


def at_points(experiment: Experiment, shares: list[float], method: str, by_position: bool) -> EdgeScores:
    """Differences times the mean gradient over runs from embeddings at shares of the way to the clean one."""
    total = Accumulator(experiment, by_position)
    for batch in experiment.batches:
        total.add(batch, gradients(experiment.layout, batch, between(batch, shares)))
    return total.result(method)
