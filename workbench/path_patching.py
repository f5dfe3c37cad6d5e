"""Path patching: what one component tells another directly, or through MLPs, while every other head stays as it was.

Wang et al. 2022, arXiv:2211.00593, appendix B; Goldowsky-Dill et al. 2023, arXiv:2304.05969. In a first pass over the
run patched into, attention is held as it was, but for the sender, which gives what it gave in the other run; what then
reaches the receivers is noted. In a second, the receivers get just that, and everything after them follows. Both runs
are made once; many senders share each pass.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor

from workbench import sites as site_names
from workbench.cells import cell_labels
from workbench.contrast import Contrast, Pairs, contrasts, groups
from workbench.edits import Edit
from workbench.errors import SettingError
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.patching import PatchingResult, result
from workbench.suffix import BaseRun
from workbench.sweep import OnProgress, Place, cut, grid, masked, progress_of_batch, put, sweep

HEADS, MLPS, EMBEDDING = "blocks.*.attn.hook_z", "blocks.*.hook_mlp_out", "blocks.0.hook_resid_pre"
SCALES = ("blocks.*.ln1.hook_scale", "blocks.*.ln2.hook_scale", "ln_final.hook_scale")
SENDERS = (HEADS, "blocks.*.hook_attn_out", MLPS, EMBEDDING)
RECEIVERS = ("blocks.*.attn.hook_q", "blocks.*.attn.hook_k", "blocks.*.attn.hook_v", MLPS)


@dataclass(frozen=True, eq=False)
class PathPatchingResult(PatchingResult):
    """The metric with each sender's paths to the receivers patched; `site` names the senders."""

    receivers: tuple[str, ...]
    """In words; ("logits",) for the paths straight to the output."""
    mlps: str
    """Whether MLPs on the way "recompute" or "freeze"."""
    norms: str
    """Whether norms on the way "recompute" or "freeze" their scale."""

    def __str__(self) -> str:
        way = f"  paths to {' and '.join(self.receivers)}; on the way, MLPs {self.mlps}, norms {self.norms}"
        head, *rest = super().__str__().split("\n")
        return "\n".join([head, way, *rest])


def path_patching(
    model: HookedModel,
    pairs: Pairs,
    senders: str = HEADS,
    receivers: Sequence[Place] = (),
    by: Sequence[str] = ("head",),
    *,
    metric: Metric = LOGIT_DIFFERENCE,
    direction: str = "noise",
    mlps: str = "recompute",
    norms: str = "recompute",
    on_progress: OnProgress | None = None,
) -> PathPatchingResult:
    """Patch the paths from every sender to the receivers, one sender at a time.

    `senders`: heads by their `hook_z`, whole `hook_attn_out` or `hook_mlp_out`, or the embedding, by
    `blocks.0.hook_resid_pre`; `by` tells them apart as in `activation_patching`. `receivers`: queries, keys or values
    of heads, or MLPs, named by their `hook_mlp_out`, whose input is meant; without any, paths end in the logits.

    On the way, heads are always frozen to the run patched into. MLPs "recompute" what comes of their changed input, so
    that paths through them count, or "freeze"; the scales of norms likewise. After the receivers nothing is frozen. A
    sender that comes after every receiver has no effect.

    Raises `PromptError`, `UnknownSite`, `EditError`, `SettingError`, also for frozen norms where the model has more
    norms than a pre-norm block.
    """
    _check(model, senders, receivers, mlps, norms)
    frozen = {HEADS, *[MLPS] * (mlps == "freeze"), *SCALES * (norms == "freeze")}
    held = [site for site in model.sites if {site, _pattern(site)} & frozen]
    ends = [end for receiver in receivers for end in receiver.each(model)]
    listed = groups(pairs, by)
    n_prompts, parts, done = sum(map(len, listed)), [], 0
    for contrast in contrasts(model, listed, [senders, *held], metric, direction):
        cells = grid(contrast.into, senders, by)
        progress = progress_of_batch(on_progress, done, len(contrast), n_prompts)
        values = sweep(contrast.into, cells, partial(_effect, contrast, ends, held), on_progress=progress)
        parts.append((values, *contrast.ends()))
        done += len(contrast)
    named = tuple(map(str, receivers)) or ("logits",)
    more = {"receivers": named, "mlps": mlps, "norms": norms}
    labels, task = cell_labels(model, cells, listed), listed[0].name
    return result("path patching", senders, by, task, metric, direction, labels, parts, PathPatchingResult, **more)


def _check(model: HookedModel, senders: str, receivers: Sequence[Place], mlps: str, norms: str) -> None:
    if not {senders, _pattern(senders)} & set(SENDERS):
        raise SettingError(f"paths cannot start at {senders}; they start at {', '.join(SENDERS)}")
    if wrong := [end.site for end in receivers if _pattern(end.site) not in RECEIVERS]:
        raise SettingError(f"paths cannot end at {wrong[0]}; they end at {', '.join(RECEIVERS)}, or in the logits")
    if wrong := [way for way in (mlps, norms) if way not in ("recompute", "freeze")]:
        raise SettingError(f"on the way, MLPs and norms 'recompute' or 'freeze'; {wrong[0]!r} is neither")
    if norms == "freeze" and hasattr(model.bridge.blocks[0], "ln1_post"):
        raise SettingError(f"{model.info.architecture} has norms after its sublayers, too; they cannot be frozen")


def _pattern(site: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", site)


def _effect(
    contrast: Contrast,
    ends: Sequence[Place],
    held: Sequence[str],
    site: str,
    mask: Bool[Tensor, "copy ..."],
    start: int,
) -> Float[Tensor, "copy example"]:
    """The metric with the paths from some cells of `site` to the receivers patched."""
    base, copies = contrast.into, len(mask)
    order = base.model.sites.index
    later = [end for end in ends if order(end.site) > order(site)]
    if ends and not later:
        return contrast.score(base.logits).expand(copies, -1)
    arrived: list[tuple[Place, Tensor]] = []

    def note(end: Place, part: Tensor) -> Tensor:
        arrived.append((end, part))
        return part

    notes = [_at(end, partial(note, end)) for end in later]
    freeze = [_hold(base, place, copies, start) for place in held if order(place) >= order(site)]
    send = masked(base, site, mask, put(contrast.source.activations), start)
    run = base.resume(
        site_names.layer_of(site),
        edits=[*notes, *freeze, send],
        start=start,
        copies=copies,
        stop_after=max((end.site for end in later), key=order, default=None),
    )
    if later:
        receive = [_at(end, partial(_give, part)) for end, part in arrived]
        first = min(site_names.layer_of(end.site) for end in later)
        run = base.resume(first, edits=receive, start=start, copies=copies)
    return contrast.score(run.logits.unflatten(0, (copies, len(base.tokens)))[:, :, -1])


def _at(end: Place, change: Callable[[Tensor], Tensor]) -> Edit:
    return Edit(end.site, change, positions=end.positions, heads=end.heads, name="path patching")


def _give(value: Tensor, _: Tensor) -> Tensor:
    return value


def _hold(base: BaseRun, site: str, copies: int, start: int) -> Edit:
    """An edit that puts the base run's own activation."""
    own = cut(site, base[site], slice(start, base.n_pos))
    return Edit(site, lambda _: own.repeat(copies, *[1] * (own.ndim - 1)), name="path patching")
