"""Information flow routes: what reaches the logits in large shares, traced back from them, in the clean run alone.

Ferrando & Voita 2024, "Information Flow Routes" (arXiv:2403.00824).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from circuits.experiment import Batch, Experiment
from circuits.graph import Graph
from circuits.scores.gradients import EXPANDED
from circuits.scores.result import EdgeScores


def information_flow(experiment: Experiment, *, by_position: bool = False) -> EdgeScores:
    """The largest threshold at which an edge is on a route, by `routes` and the mean of `flow_shares`.

    It needs no gradient, metric or ablation, and does not tell apart what the queries, keys and values of one layer
    read. An importance, from 0 to 1.
    """
    values = routes(experiment.graph, flow_shares(experiment, by_position=by_position))
    return EdgeScores(experiment.graph, values, "flow", experiment.facts, kind="importance")


def routes(graph: Graph, shares: Float[Tensor, "*pos destination source"]) -> Float[Tensor, "*pos destination source"]:
    """The largest threshold at which an edge is reached from the logits, going back along edges of that share or more.

    That is the smallest share on the best way from the edge to the logits: so the edges above any threshold are just
    those that the paper keeps there. An edge of a large share into a node that matters little to the logits is worth
    as little as the node. A node counts as one over all positions.
    """
    values = shares.clone()
    for span in reversed(graph.spans[:-1]):
        rows = slice(span.destinations.start, span.destinations.stop)
        columns = slice(span.sources.start, span.sources.stop)
        onward = values[..., columns].flatten(0, -2).amax(0)
        width = (graph.feeds[rows, columns] * onward).amax(1)
        values[..., rows, :] = torch.minimum(values[..., rows, :], width[:, None])
    return values


@torch.no_grad()
def flow_shares(experiment: Experiment, *, by_position: bool = False) -> Float[Tensor, "*pos destination source"]:
    """How near a source comes to the whole that a destination reads (eq. 7).

    For y read by a destination and x written by a source, the proximity max(0, ‖y‖₁ - ‖y - x‖₁), as a share of the sum
    over all sources that the destination reads; the mean over examples and positions. The logits are read at the last
    position alone.
    """
    graph = experiment.graph
    total = torch.zeros(*([experiment.length] if by_position else []), *graph.edges.shape)
    for batch in tqdm(experiment.batches, desc="information flow", unit="batch", leave=False):
        length = batch.pairs.clean.shape[1]
        for positions, number, share in _shares(batch):
            span = graph.spans[number]
            rows = slice(span.destinations.start, span.destinations.stop)
            share = share.cpu()
            if not span.sources:
                share = share * (torch.arange(length)[positions] == length - 1)[:, None]
            if by_position:
                total[positions, rows, : span.reads] += share[:, None]
            else:
                total[rows, : span.reads] += share.sum(0) / (length if span.sources else 1)
    return total / len(experiment)


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
