"""Activation patching: which activations carry the difference between a clean and a corrupted prompt.

Run the model on one prompt of a pair, put in a part of its activations on the other, and see how far the answer follows
(Meng et al. 2022, arXiv:2202.05262; Heimersheim & Nanda 2024, arXiv:2404.15255).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.bootstrap import intervals
from workbench.cells import Cells, cell_labels
from workbench.contrast import DIRECTIONS, Pairs, contrasts, groups
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.sweep import OnProgress, changed, grid, progress_of_batch, put, sweep


@dataclass(frozen=True, eq=False)
class PatchingResult(Cells):
    """The metric with each cell patched. An effect is 0 if nothing follows from the patch, and 1 if everything does."""

    method: str
    site: str
    task: str
    direction: str
    """A key of `DIRECTIONS`."""
    metric: str
    unit: str
    into: Float[Tensor, " example"]
    """The metric of the runs patched into."""
    source: Float[Tensor, " example"]
    """The metric of the runs patched from."""

    @cached_property
    def effect(self) -> Float[Tensor, "*cells"]:
        """How much of the way from the run patched into to the other: a ratio of means over prompts."""
        return (self.values - self.into).mean(-1) / (self.source - self.into).mean()

    @cached_property
    def interval(self) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
        return intervals(self.values - self.into, self.source - self.into)

    def __str__(self) -> str:
        ends = [f"{end.mean():.3f} {self.unit}".rstrip() for end in (self.into, self.source)]
        head = f"{self.method.capitalize()} of {self.site}, {DIRECTIONS[self.direction]}"
        scale = f"{self.metric.replace('_', ' ')} {ends[0]} (effect 0) to {ends[1]} (effect 1)"
        return "\n".join([head, f"{self.task}, {len(self.into)} prompts: {scale}", *self.table()])


def activation_patching(
    model: HookedModel,
    pairs: Pairs,
    site: str,
    by: Sequence[str] = (),
    *,
    metric: Metric = LOGIT_DIFFERENCE,
    direction: str = "denoise",
    on_progress: OnProgress | None = None,
) -> PatchingResult:
    """Patch every cell of the sites that `site` names, one at a time, in all prompt pairs.

    `by`: the axes to tell cells apart by, besides the layer: "position", "head", an MLP's hidden "neuron", or "head",
    "query" and "key" of an attention pattern. Keys and values have `n_kv_heads` heads. "denoise" puts clean activations
    into the corrupted run, "noise" corrupted ones into the clean run.

    The same, to rounding, as one run with one edit for each cell; but many cells share a forward pass, and it starts at
    their layer and position. Raises `PromptError` where prompts of several lengths would be patched by position;
    `UnknownSite`, `SettingError`.
    """
    listed = groups(pairs, by)
    n_prompts, parts, done = sum(map(len, listed)), [], 0
    for contrast in contrasts(model, listed, [site], metric, direction):
        cells, progress = grid(contrast.into, site, by), progress_of_batch(on_progress, done, len(contrast), n_prompts)
        measure = changed(contrast.into, put(contrast.source.activations), contrast.score)
        values = sweep(contrast.into, cells, measure, on_progress=progress)
        parts.append((values, *contrast.ends()))
        done += len(contrast)
    labels = cell_labels(model, cells, listed)
    return result("activation patching", site, by, listed[0].name, metric, direction, labels, parts)


def result(
    method: str,
    site: str,
    by: Sequence[str],
    task: str,
    metric: Metric,
    direction: str,
    labels: tuple[list[str], ...],
    parts: Sequence[tuple[Tensor, Tensor, Tensor]],
    kind: type[PatchingResult] = PatchingResult,
    **more: Any,
) -> PatchingResult:
    """The result of a method, from the (values, into, source) of each batch of prompts; `more` are fields of `kind`."""
    values, into, source = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    return kind(
        axes=("layer", *by),
        labels=labels,
        values=values,
        method=method,
        site=site,
        task=task,
        direction=direction,
        metric=metric.name,
        unit=metric.unit,
        into=into,
        source=source,
        **more,
    )
