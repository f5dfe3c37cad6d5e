"""Ablation studies: how much worse the model does without each of its parts, on a task or on a corpus.

A part is zeroed, put at its mean, given what it gave on another prompt, or loses one direction (`workbench.study`). The
first takes away most, and may take the model where it has never been; the third keeps every part to what it knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import sites as site_names
from workbench.bootstrap import intervals
from workbench.cells import Cells, cell_labels
from workbench.contrast import Pairs
from workbench.corpus import TokenBatch
from workbench.errors import SettingError
from workbench.metrics import Metric
from workbench.model import HookedModel
from workbench.study import WAYS, Study, Trial
from workbench.sweep import OnProgress, Place, changed, grid, masked, progress_of_batch, sweep


@dataclass(frozen=True, eq=False)
class AblationResult(Cells):
    """A measure without each part. An effect is the change from the whole model, in the measure's own unit."""

    how: str
    """A key of `WAYS`."""
    site: str
    """What was ablated: a pattern of sites, or "sets"."""
    on: str
    """The task, or "corpus"."""
    metric: str
    unit: str
    whole: Float[Tensor, " example"]
    """The measure of the whole model."""

    @cached_property
    def effect(self) -> Float[Tensor, "*cells"]:
        """Mean change of the measure over prompts."""
        return (self.values - self.whole).mean(-1)

    @cached_property
    def interval(self) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
        return intervals(self.values - self.whole)

    def __str__(self) -> str:
        whole = f"{self.whole.mean():.3f} {self.unit}".rstrip()
        head = f"Ablation of {self.site}, each part {WAYS[self.how]}"
        prompts = "contexts" if self.on == "corpus" else "prompts"
        scale = f"{self.metric.replace('_', ' ')} of the whole model {whole}; effect: the change from it"
        return "\n".join([head, f"{self.on}, {len(self.whole)} {prompts}: {scale}", *self.table()])


def ablation_study(
    model: HookedModel,
    on: Pairs | TokenBatch,
    site: str,
    by: Sequence[str] = (),
    *,
    how: str = "mean",
    direction: Float[Tensor, " d"] | None = None,
    metric: Metric | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> AblationResult:
    """Ablate every cell of the sites that `site` names, one at a time.

    `on`: prompt pairs, of which the clean prompts are run and measured by `metric` (the logit difference by default);
    or contexts of a corpus, measured by their mean loss in nats a token. `by`: the axes to tell parts apart by, besides
    the layer: "head", "position", an MLP's hidden "neuron", …. `how`: "zero"; "mean", over all tokens of the study;
    "resample", from another prompt of the same length, by a random cycle drawn from `seed`; "direction", less the
    component along `direction`.

    Raises `PromptError` where prompts of several lengths would be told apart by position; `SettingError`,
    `UnknownSite`.
    """
    study = Study(model, on, [site], by, how=how, direction=direction, metric=metric, seed=seed)
    parts, done = [], 0
    for trial in study.trials():
        cells, progress = grid(trial.base, site, by), progress_of_batch(on_progress, done, len(trial), len(study))
        measure = changed(trial.base, study.substitute(trial), trial.score, whole=trial.every)
        values = sweep(trial.base, cells, measure, whole=trial.every, on_progress=progress)
        parts.append((values, trial.whole()))
        done += len(trial)
    return _result(study, site, ("layer", *by), cell_labels(model, cells, study.pairs), parts)


def knock_out(
    model: HookedModel,
    on: Pairs | TokenBatch,
    sets: Mapping[str, Sequence[Place]],
    *,
    how: str = "mean",
    metric: Metric | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> AblationResult:
    """Ablate whole sets of parts, one set at a time. Else as `ablation_study`.

    A set is a name and its places: `{"name movers": [Place("blocks.3.attn.hook_z", heads=[1, 2])]}`.
    """
    if not sets:
        raise SettingError("there is no set to knock out")
    places = {name: [one for place in named for one in place.each(model)] for name, named in sets.items()}
    if empty := [name for name, named in places.items() if not named]:
        raise SettingError(f"the set {empty[0]!r} is empty")
    sites = tuple(dict.fromkeys(place.site for named in places.values() for place in named))
    study = Study(model, on, sites, how=how, metric=metric, seed=seed)
    parts, done = [], 0
    for trial in study.trials():
        values = [_without(study, trial, named) for named in places.values()]
        parts.append((torch.stack(values), trial.whole()))
        done += len(trial)
        if on_progress:
            on_progress(done, len(study))
    return _result(study, "sets", ("set",), (list(places),), parts)


def _without(study: Study, trial: Trial, places: Sequence[Place]) -> Float[Tensor, " example"]:
    """The score of a trial without some places."""
    base, masks = trial.base, {}
    for place in places:
        mask = place.mask(base[place.site])
        masks[place.site] = masks.get(place.site, False) | mask
    edits = [masked(base, site, mask, study.substitute(trial), 0) for site, mask in masks.items()]
    first = min(site_names.layer_of(site) for site in masks)
    logits = base.resume(first, edits=edits, every_position=trial.every).logits[None]
    return trial.score(logits if trial.every else logits[:, :, -1])[0].float().cpu()


def _result(
    study: Study,
    site: str,
    axes: tuple[str, ...],
    labels: tuple[list[str], ...],
    parts: Sequence[tuple[Tensor, Tensor]],
) -> AblationResult:
    values, whole = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    names = {"how": study.how, "on": study.name, "metric": study.metric.name, "unit": study.metric.unit}
    return AblationResult(axes=axes, labels=labels, values=values, site=site, whole=whole, **names)
