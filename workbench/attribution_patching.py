"""Attribution patching: what activation patching would find, to first order, from one backward pass.

The effect of putting in another activation is estimated as the gradient of the metric times the change (Nanda 2023,
"Attribution patching"; Syed et al. 2023, arXiv:2310.10348). It is exact where the rest of the model is linear, and
poorest early in the residual stream, where whole activations change. `compare` sets it beside the exact sweep.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from workbench.cells import SHOWN, cell_labels
from workbench.contrast import Contrast, Pairs, contrasts, groups
from workbench.errors import SettingError
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.patching import PatchingResult, result
from workbench.sweep import Grid, axes, grid


def attribution_patching(
    model: HookedModel,
    pairs: Pairs,
    site: str,
    by: Sequence[str] = (),
    *,
    metric: Metric = LOGIT_DIFFERENCE,
    direction: str = "denoise",
) -> PatchingResult:
    """`activation_patching` to first order, at the cost of three runs and one backward pass whatever the cells.

    Each value is the metric of the run patched into, plus its gradient at the activation times what the patch would
    change there. Raises as `activation_patching`.
    """
    listed, parts = groups(pairs, by), []
    for contrast in contrasts(model, listed, [site], metric, direction, graphs=True):
        cells = grid(contrast.into, site, by)
        parts.append((_first_order(contrast, cells), *contrast.ends()))
    labels = cell_labels(model, cells, listed)
    return result("attribution patching", site, by, listed[0].name, metric, direction, labels, parts)


def _first_order(contrast: Contrast, cells: Grid) -> Float[Tensor, "*cells example"]:
    run = contrast.into.model.run(contrast.into.tokens, capture=cells.sites, grad=True)
    with torch.enable_grad():
        total = contrast.score(run.logits[:, -1]).sum()
    gradients = torch.autograd.grad(total, [run[site] for site in cells.sites])
    places = axes(cells.sites[0])
    kept = [places[name] for name in cells.by]
    changes = []
    for site, gradient in zip(cells.sites, gradients, strict=True):
        change = gradient * (contrast.source[site] - contrast.into[site])
        rest = [dim for dim in range(1, change.ndim) if dim not in kept]
        moved = change.permute(*kept, 0, *rest)
        changes.append(moved.reshape(*moved.shape[: len(kept) + 1], -1).sum(-1))
    return (torch.stack(changes) + contrast.score(contrast.into.logits)).float().cpu()


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well a preview foresaw the exact effects, cell by cell."""

    exact: PatchingResult
    preview: PatchingResult
    pearson: float
    spearman: float
    """Of the effects over cells."""
    spearman_size: float
    """Of the sizes of the effects."""
    largest: float
    """The largest difference between two effects."""
    worst: tuple[int, ...]
    """The cell where it is."""

    def __str__(self) -> str:
        exact, preview, cell = self.exact, self.preview, self.worst
        lines = [
            f"{preview.method.capitalize()} against {exact.method}: {exact.site}, {exact.effect.numel()} cells",
            f"correlation {self.pearson:.3f}, of ranks {self.spearman:.3f}, of ranks by size {self.spearman_size:.3f}",
            f"largest difference {self.largest:.3f}, at {exact.name(cell)}: "
            f"{preview.effect[cell]:+.3f}, really {exact.effect[cell]:+.3f}",
        ]
        width = max(len(exact.name(cell)) for cell, _ in exact.ranked()[:SHOWN])
        lines.append(f"  {'':<{width}}   exact  preview")
        for cell, effect in exact.ranked()[:SHOWN]:
            lines.append(f"  {exact.name(cell):<{width}}  {effect:+.3f}  {preview.effect[cell]:+.3f}")
        return "\n".join(lines)


def compare(exact: PatchingResult, preview: PatchingResult) -> Agreement:
    """Set a preview beside the exact sweep of the same cells. Raises `SettingError` if they are not the same."""
    for name in ("site", "axes", "direction", "metric", "task"):
        if getattr(exact, name) != getattr(preview, name):
            raise SettingError(f"{name} differs: {getattr(exact, name)!r} and {getattr(preview, name)!r}")
    if exact.effect.shape != preview.effect.shape:
        raise SettingError(f"one result has {list(exact.effect.shape)} cells, the other {list(preview.effect.shape)}")
    one, other = exact.effect.flatten(), preview.effect.flatten()
    difference = (one - other).abs()
    cell = torch.unravel_index(difference.argmax(), exact.effect.shape)
    return Agreement(
        exact=exact,
        preview=preview,
        pearson=correlation(pearsonr, one, other),
        spearman=correlation(spearmanr, one, other),
        spearman_size=correlation(spearmanr, one.abs(), other.abs()),
        largest=difference.max().item(),
        worst=tuple(int(index) for index in cell),
    )


def correlation(kind: Callable, one: Float[Tensor, " cell"], other: Float[Tensor, " cell"]) -> float:
    """NaN for fewer than two cells, or where one side is the same everywhere."""
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return float("nan")
    return float(kind(one, other).statistic)
