"""Information flow routes: how much of what a destination reads each source accounts for, in the clean run alone."""

import torch
from torch import Tensor
from tqdm import tqdm

from circuits.experiment import Batch, Experiment
from circuits.scores.gradients import EXPANDED
from circuits.scores.result import EdgeScores


@torch.no_grad()
def information_flow(experiment: Experiment, *, by_position: bool = False) -> EdgeScores:
    """Ferrando & Voita 2024 (arXiv:2403.00824, eq. 7): how near a source comes to the whole that is read.

    For y read by a destination and x written by a source, the proximity max(0, ‖y‖₁ - ‖y - x‖₁), as a share of the sum
    over all sources that the destination reads; the mean over examples and positions. It needs no gradient, metric or
    ablation, and does not tell apart what the queries, keys and values of one layer read. An importance, from 0 to 1.
    """
    graph = experiment.graph
    total = torch.zeros(*([experiment.length] if by_position else []), *graph.edges.shape)
    for batch in tqdm(experiment.batches, desc="information flow", unit="batch", leave=False):
        for positions, number, share in _shares(batch):
            span = graph.spans[number]
            rows = slice(span.destinations.start, span.destinations.stop)
            if by_position:
                total[positions, rows, : span.reads] += share.cpu()[:, None]
            else:
                total[rows, : span.reads] += share.cpu().sum(0) / batch.pairs.clean.shape[1]
    return EdgeScores(graph, total / len(experiment), "information-flow", experiment.facts, kind="importance")


def _shares(batch: Batch):
    """(positions, stage, shares [pos source] summed over examples)."""
    layout = batch.layout
    n, length, width = batch.clean.states[0].shape
    step = max(1, EXPANDED // (n * width * len(layout.graph.sources) * batch.clean.states[0].element_size()))
    for start in range(0, length, step):
        positions = slice(start, min(start + step, length))
        states = [state[:, positions] for state in batch.clean.states]
        written = torch.cat([layout.expand(number, states) for number in range(-1, len(layout.stages) - 1)])
        done: dict[int, Tensor] = {}
        for number, span in enumerate(layout.graph.spans):
            if span.reads not in done:
                read = batch.clean.streams[span.reads][:, positions]
                missing = (read - written[: span.reads]).abs().sum(-1)
                near = (read.abs().sum(-1) - missing).clamp_min(0)
                done[span.reads] = (near / near.sum(0).clamp_min(1e-30)).sum(1).T
            yield positions, number, done[span.reads]
