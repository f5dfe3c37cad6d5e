"""Exact effects: every edge ablated by itself, and the rest of the model run on from there."""

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from circuits.experiment import DIFFERENCES, Batch, Experiment
from circuits.layout import Layout
from circuits.scores.result import EdgeScores


@torch.no_grad()
def exact_effects(experiment: Experiment) -> EdgeScores:
    """The change of the metric when one edge alone is ablated, for each edge: the truth that gradients estimate.

    Many edges into one destination go through the model as one batch, and only through the layers from that
    destination on. For GPT-2 small that still comes to some ten thousand forward passes of each batch of pairs.
    """
    graph = experiment.graph
    total = torch.zeros(graph.edges.shape)
    with tqdm(total=graph.n_edges * len(experiment), unit="edge", desc="exact effects", leave=False) as progress:
        for batch in experiment.batches:
            for number in range(len(graph.spans)):
                for destination, effects in _stage(batch, number, progress):
                    total[destination, : len(effects)] += effects.cpu()
    return EdgeScores(graph, total / len(experiment), "exact", experiment.facts)


def _stage(batch: Batch, number: int, progress: tqdm):
    """(destination, summed effects of its edges) for each destination of a stage."""
    layout = batch.layout
    span, stage = layout.graph.spans[number], layout.stages[number]
    stages = range(-1, number)
    sources = torch.cat([layout.difference(at, batch.ablated.states, batch.clean.states) for at in stages])
    sources = sources[: span.reads]
    read = batch.clean.streams[span.reads]
    taps = stage.taps(read)
    clean = batch.values(batch.clean.logits)
    together = max(1, DIFFERENCES // (16 * read.numel() * read.element_size()))
    for offset, destination in enumerate(span.destinations):
        parts = []
        for some in sources.split(together):
            state = stage.emit(stage.retap(taps, offset, (read + some).flatten(0, 1)))
            logits = state if not span.sources else _run_on(layout, batch, number, state)
            parts.append((batch.values(logits.unflatten(0, (len(some), -1))) - clean).sum(1))
            progress.update(len(some) * len(batch.pairs))
        yield destination, torch.cat(parts)


def _run_on(layout: Layout, batch: Batch, number: int, state: Tensor) -> Float[Tensor, "n d_vocab"]:
    """Logits, if a stage has come to another state than in the clean run."""
    sources = layout.graph.spans[number].sources
    added = layout.stages[number].added(state)
    before = batch.clean.streams[sources.start].repeat(len(added) // len(batch.pairs), 1, 1)
    return layout.resume(number + 1, {sources.start: before, sources.stop: before + added}).logits
