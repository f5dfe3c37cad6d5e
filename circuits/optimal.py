"""Optimal ablation: for each node, the constant that disturbs the model least in its place.

Li & Janson 2024, "Optimal ablation for interpretability" (arXiv:2409.09951). What it does to the model is what the node
tells about the prompt, with nothing added by an unlucky constant.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from circuits.ablations import Ablation
from circuits.experiment import Batch, Experiment
from circuits.units import Units
from workbench.errors import SettingError
from workbench.metrics import KL


@torch.enable_grad()
def optimal_ablation(experiment: Experiment, *, steps: int = 50, lr: float = 0.05) -> Ablation:
    """One constant for each node, the same at all positions, that minimises KL(model ‖ model with the node replaced).

    Each node is ablated by itself, as in the paper; the nodes of a layer are learnt side by side, and only the layers
    after them are run. A constant starts from the mean over the experiment's clean prompts and moves in units of the
    standard deviation, by Adam with learning rate `lr`; the best of all steps is kept. Raises `SettingError`.
    """
    if steps < 1:
        raise SettingError(f"steps is {steps}; it must be at least 1")
    stages = range(-1, len(experiment.graph.spans) - 1)
    constants = [_learn(experiment, number, steps, lr) for number in tqdm(stages, desc="optimal ablation", leave=False)]
    lengths = {group.clean.shape[1] for group in experiment.groups}
    return Ablation(
        "optimal",
        {length: tuple(x.expand(1, length, *x.shape).contiguous() for x in constants) for length in lengths},
    )


def _learn(experiment: Experiment, number: int, steps: int, lr: float) -> Float[Tensor, "..."]:
    """The constant state of a stage."""
    rows = torch.cat([batch.clean.states[number + 1].flatten(0, 1) for batch in experiment.batches])
    mean, deviation = rows.mean(0), rows.std(0)
    moved = torch.zeros_like(mean, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=lr)
    owner = _owner(experiment, number, mean)
    lowest = torch.full((int(owner.max()) + 1,), float("inf"), device=mean.device)
    best = mean.clone()
    for _ in range(steps + 1):
        constant = mean + deviation * moved
        optimizer.zero_grad()
        loss = torch.zeros_like(lowest)
        for batch in experiment.batches:
            part = _harm(batch, number, constant, owner) / len(experiment)
            part.sum().backward(retain_graph=True)
            loss += part.detach()
        better = loss < lowest
        lowest = torch.where(better, loss, lowest)
        best = torch.where(better[owner], constant.detach(), best)
        optimizer.step()
    return best


def _owner(experiment: Experiment, number: int, state: Float[Tensor, "*entry"]) -> Int[Tensor, "*entry"]:
    """The node, counted within the stage, that each entry of its state belongs to."""
    batch = next(iter(experiment.batches))
    stage = None if number < 0 else batch.layout.stages[number]
    if isinstance(stage, Units):
        units = torch.arange(state.numel(), device=state.device)
        return units.clamp_max(len(stage))
    nodes = torch.arange(len(state) if state.ndim > 1 else 1, device=state.device)
    return nodes[:, None].expand(-1, state.shape[-1]).reshape(state.shape)


def _harm(
    batch: Batch, number: int, constant: Float[Tensor, "*entry"], owner: Int[Tensor, "*entry"]
) -> Float[Tensor, " node"]:
    """KL, summed over examples, with each node of a stage replaced by its constant."""
    layout, clean = batch.layout, batch.clean.states[number + 1]
    nodes = torch.arange(int(owner.max()) + 1, device=owner.device)
    swap = owner == nodes.view(-1, 1, 1, *[1] * owner.ndim)
    states = torch.where(swap, constant, clean).flatten(0, 1)
    if number < 0:
        logits = layout.run(states).logits
    else:
        sources = layout.graph.spans[number].sources
        before = batch.clean.streams[sources.start].repeat(len(states) // len(clean), 1, 1)
        streams = {sources.start: before, sources.stop: before + layout.stages[number].added(states)}
        logits = layout.resume(number + 1, streams).logits
    return KL(logits.unflatten(0, (-1, len(clean))), batch.pairs, batch.clean.logits).sum(1)
