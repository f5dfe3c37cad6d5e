"""Integrated gradients of edges: gradients along the way from the ablated to the clean run, not at its end alone.

Hanna, Pezzelle & Belinkov 2024, "Have Faith in Faithfulness" (arXiv:2403.17806); Sundararajan et al. 2017.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.experiment import Batch, Experiment
from circuits.scores.gradients import Accumulator, Gradients, at_points, gradients_of
from circuits.scores.result import EdgeScores
from workbench.errors import SettingError


def shares(steps: int, rule: str) -> list[float]:
    """Where on the way from the ablated (0) to the clean (1) run gradients are taken.

    paper: k / steps for k = 1 .. steps (Hanna et al. 2024, eq. 3), the clean run among them. published_code: k = 0 ..
    steps - 1 (EAP-IG 2.0, edges), the ablated run among them. midpoint: the middles of equal parts, of which fewer are
    needed for the same accuracy. Raises `SettingError` for another rule or fewer than one step.
    """
    offsets = {"paper": 1.0, "published_code": 0.0, "midpoint": 0.5}
    if rule not in offsets:
        raise SettingError(f"no rule {rule!r}; integrated gradients know {', '.join(offsets)}")
    if steps < 1:
        raise SettingError(f"steps is {steps}; it must be at least 1")
    return [(step + offsets[rule]) / steps for step in range(steps)]


def eap_ig_inputs(
    experiment: Experiment, *, steps: int = 5, rule: str = "paper", by_position: bool = False
) -> EdgeScores:
    """EAP-IG: the mean of the gradients on the way from the ablated to the clean *embedding*.

    As steps grow, the scores of the input's edges add up to the metric of the ablated run less that of the clean one.
    As many steps go through the model as one batch as memory allows.
    """
    return at_points(experiment, shares(steps, rule), "eap-ig", by_position)


def eap_ig_activations(
    experiment: Experiment, *, steps: int = 5, rule: str = "paper", by_position: bool = False
) -> EdgeScores:
    """EAP-IG on activations: the source itself goes from ablated to clean, everything else stays as it is.

    Integrated gradients as of Marks et al. 2024 (arXiv:2403.19647, eq. 3), layer by layer: what one layer of heads, or
    one MLP, adds is moved from ablated to clean, and its own edges are scored with the mean of the gradients after it.
    Only the layers after it are run. With `rule="published_code"`, as EAP-IG 2.0 has it instead: every edge is scored
    in all of these runs, and the mean of them all is taken; that is not exact even in a linear model, as every run
    cuts the paths through the layer that is moved.
    """
    total = Accumulator(experiment, by_position)
    stages = range(-1, len(experiment.graph.spans) - 1)
    published = rule == "published_code"
    points = shares(steps, "paper" if published else rule)
    for batch in experiment.batches:
        for number in stages:
            for some in experiment.together(batch, points):
                found = (_everywhere if published else _after)(batch, number, some)
                total.add(batch, found, stages if published else range(number, number + 1))
    return total.result("eap-ig-activations", len(points) * (len(stages) if published else 1))


@torch.enable_grad()
def _after(batch: Batch, number: int, points: list[float]) -> Gradients:
    """Gradients at the stages after one that is moved."""
    layout, moved = batch.layout, _moved(batch, number, points)
    if number < 0:
        streams = {1: moved}
    else:
        span = layout.graph.spans[number]
        before = batch.clean.streams[span.sources.start].repeat(len(points), 1, 1)
        streams = {span.sources.start: before, span.sources.stop: before + moved}
    trace = layout.resume(number + 1, streams, taps=True)
    return gradients_of(batch, replace(trace, added=[moved, *trace.added]), len(points), number + 1)


@torch.enable_grad()
def _everywhere(batch: Batch, number: int, points: list[float]) -> Gradients:
    """Gradients at every stage, while one is moved."""
    layout, moved = batch.layout, _moved(batch, number, points)
    if number < 0:
        trace = layout.run(moved, taps=True)
    else:
        clean = batch.clean.states[0].repeat(len(points), 1, 1).requires_grad_()
        trace = layout.run(clean, taps=True, adds=lambda at, added: moved if at == number else added)
    return gradients_of(batch, trace, len(points))


def _moved(batch: Batch, number: int, points: list[float]) -> Float[Tensor, "point_n pos d_model"]:
    """What a stage adds, at some points of its way from ablated to clean."""
    clean, ablated = (batch.layout.added(number, run.states) for run in (batch.clean, batch.ablated))
    return torch.cat([ablated + share * (clean - ablated) for share in points]).requires_grad_()
