"""The units of a model's MLPs that matter most on some prompts, by a first-order estimate of every one of them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from circuits.choice import Choice, all_units
from circuits.experiment import Batch, Experiment
from circuits.scores.gradients import Gradients, between, gradients
from circuits.scores.ig import shares
from circuits.units import Units
from saes.sae import SAE
from workbench.errors import SettingError
from workbench.metrics import Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

TOGETHER = 16
"""Prompts that are run together."""


def strongest_units(
    model: HookedModel,
    pairs: PromptPairs | Sequence[PromptPairs],
    metric: Metric,
    count: int,
    saes: Mapping[int, SAE] | None = None,
    *,
    steps: int = 5,
) -> dict[int, Choice]:
    """By layer, the neurons (or the latents of `saes`) whose resampling would change the metric most, `count` in all.

    The effect of a unit is its change times its row times the mean gradient where the MLP writes, on the way from the
    corrupted to the clean embedding; that is what node attribution (`circuits.scores.nodes`) says of it, without ever
    writing out what each unit writes. Raises `ModelError` for a mixture of experts, `SettingError` if there are fewer.
    """
    units = all_units(model, saes)
    available = sum(len(choice.numbers) for choice in units.values())
    if not 1 <= count <= available:
        kind = "latents" if saes else "neurons"
        raise SettingError(f"{count} units are asked for; there are {available:,} {kind}, and at least one is chosen")
    experiment = Experiment(model, pairs, metric, units=units, batch_size=TOGETHER)
    effects = {layer: torch.zeros(len(choice.numbers)) for layer, choice in units.items()}
    for batch in tqdm(experiment.batches, desc="choosing units", unit="batch", leave=False):
        for share in shares(steps, "paper"):
            found = gradients(batch, between(batch, [share]))
            for layer, effect in zip(units, _effects(batch, found), strict=True):
                effects[layer] += effect.cpu() / steps
    where = torch.tensor([(layer, number) for layer, effect in effects.items() for number in range(len(effect))])
    chosen = where[torch.cat(list(effects.values())).abs().topk(count).indices]
    numbers = {layer: sorted(chosen[chosen[:, 0] == layer, 1].tolist()) for layer in units}
    return {layer: units[layer].only(some) for layer, some in numbers.items() if some}


def _effects(batch: Batch, found: Gradients) -> list[Float[Tensor, " unit"]]:
    """Of the units of each stage that has some, summed over examples and positions."""
    stages = [(number, stage) for number, stage in enumerate(batch.layout.stages) if isinstance(stage, Units)]
    effects = []
    for number, stage in stages:
        changes = (batch.ablated.states[number + 1] - batch.clean.states[number + 1])[..., : len(stage)]
        effects.append((changes * (found.added[number + 1] @ stage.W_out.T)).float().sum((0, 1)))
    return effects
