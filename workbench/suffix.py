"""Running a model on from the middle: what lies before an edit, in layers and in positions, is computed only once.

An edit in layer l at position p changes nothing in the layers before l and, in a causal model, nothing at the positions
before p. So one base run is kept, and a run with edits starts from its residual stream before layer l, with its keys
and values at the positions before p. Many copies of the base run share a forward pass, each with edits of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from workbench import sites
from workbench.edits import Edit, Window
from workbench.errors import EditError, ModelError, SettingError
from workbench.hooking import Pass
from workbench.model import HookedModel, Inputs, Run

RESID = "blocks.*.hook_resid_pre"


@dataclass(frozen=True, eq=False)
class BaseRun:
    """A run from whose middle others can be started; made by `base_run`."""

    model: HookedModel
    tokens: Int[Tensor, "batch pos"]
    logits: Float[Tensor, "batch d_vocab"]
    """At the last position."""
    activations: dict[str, Tensor] = field(repr=False)
    """The residual stream before every layer, and what else was captured."""
    past: tuple[tuple[Tensor, Tensor], ...] = field(repr=False)
    """Keys and values of every layer, [batch head pos d]; empty for a model that cannot take up from them."""
    block_outputs: int
    """How many things a block returns, the residual stream first; 0 if it returns the stream alone."""

    def __getitem__(self, site: str) -> Tensor:
        return self.activations[site]

    @property
    def n_pos(self) -> int:
        return self.tokens.shape[1]

    def resume(
        self,
        layer: int,
        *,
        edits: Sequence[Edit] = (),
        capture: Sequence[str] = (),
        start: int = 0,
        copies: int = 1,
        resid: Float[Tensor, "row computed d_model"] | None = None,
        stop_after: str | None = None,
        every_position: bool = False,
    ) -> Run:
        """Run `copies` of the base run, one after the other in the batch, from `layer` and position `start` on.

        Gives what `model.run(tokens.repeat(copies, 1), edits=edits, …)` gives, from position `start` on; tokens and
        logits are those of the last position only, [copies·batch 1 d_vocab], unless wanted at `every_position`.
        Positions count as in a whole run; an edit's changes before `start` are not made. `resid` stands in for the
        base run's residual stream before `layer`.

        Raises `EditError` or `UnknownSite` for an edit or a capture before `layer`, `SettingError` if no run can be
        taken up at `start`; else as `model.run`.
        """
        if start and not (0 < start < self.n_pos and self.past):
            raise SettingError(f"a run of {self.n_pos} positions of this model cannot be taken up at position {start}")
        first = RESID.replace("*", str(layer))
        if resid is None:
            resid = self[first][:, start:].repeat(copies, 1, 1)
        plan = self.model.edits_by_site(edits)
        names = sites.expand(capture, self.model.sites)
        computed = self.model.sites[self.model.sites.index(first) :]
        if early := [site for site in (*plan, *names) if site not in computed]:
            raise EditError(f"{early[0]} comes before layer {layer}, where the run is taken up")
        plan[first] = [Edit(first, lambda _: resid), *plan.get(first, [])]
        stop = sites.expand(stop_after, self.model.sites)[-1] if stop_after else None
        work = Pass(Window(start, self.n_pos, self.n_pos, self.n_pos), plan, names, stop)
        tokens = self.tokens[:, start:].repeat(copies, 1)
        with self._skipping(layer), nullcontext() if every_position else _last_position_only(self.model):
            logits = self.model.run_pass(tokens, work, self._past(layer, start, copies))
        tokens = tokens if every_position else tokens[:, -1:]
        return Run(tokens, logits, {name: work.captured[name] for name in names})

    def _past(self, layer: int, start: int, copies: int) -> DynamicCache | None:
        """Keys and values before `start`; layers that are skipped only tell their length."""
        if not start:
            return None
        cache = DynamicCache()
        for index, pair in enumerate(self.past):
            times = copies if index >= layer else 1
            cache.update(*(part[:, :, :start].repeat(times, 1, 1, 1) for part in pair), index)
        return cache

    @contextmanager
    def _skipping(self, n_layers: int) -> Iterator[None]:
        """Within the context, the first `n_layers` blocks hand on what they are given."""

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            return (hidden, *[None] * (self.block_outputs - 1)) if self.block_outputs else hidden

        blocks = list(self.model.bridge.blocks)[:n_layers]
        try:
            for block in blocks:
                block.__dict__["forward"] = stand_in  # a plain assignment would reach the wrapped module as well
            yield
        finally:
            for block in blocks:
                block.__dict__.pop("forward", None)


def base_run(model: HookedModel, inputs: Inputs, capture: Sequence[str] = ()) -> BaseRun:
    """Run text or tokens once, and keep what is needed to take the run up at any layer and position.

    That it can be taken up is checked on the run itself; a model whose keys and values cannot be reused is taken up at
    position 0 only. Raises `ModelError` for a model that cannot be taken up at all; else as `model.run`.
    """
    tokens = model.check_tokens(inputs)
    names = sites.expand([RESID, *capture], model.sites)
    length = tokens.shape[1]
    work = Pass(Window(0, length, length, length), {}, names)
    cache = DynamicCache() if isinstance(model.bridge.original_model, PreTrainedModel) else None
    outputs: list[Any] = []
    watch = model.bridge.blocks[0].register_forward_hook(lambda _, inputs, output: outputs.append(output))
    try:
        with _last_position_only(model):
            logits = model.run_pass(tokens, work, cache)[:, -1]
    finally:
        watch.remove()
    past = tuple((layer.keys, layer.values) for layer in cache.layers) if cache else ()
    base = BaseRun(model, tokens, logits, work.captured, past, len(outputs[0]) if isinstance(outputs[0], tuple) else 0)
    if length > 1 and past and _can_reuse_past(base):
        return base
    base = replace(base, past=())
    if not _agrees(base, 0):
        raise ModelError(f"{model.info.name} ({model.info.architecture}) cannot be run on from the middle")
    return base


def _can_reuse_past(base: BaseRun) -> bool:
    try:
        return _agrees(base, base.n_pos // 2)
    except Exception:  # a model that cannot do it fails in its own way
        return False


def _agrees(base: BaseRun, start: int) -> bool:
    """Whether the run, taken up at its last layer, ends as it did, to the square root of the precision."""
    again = base.resume(base.model.info.n_layers - 1, start=start).logits[:, -1]
    return bool((again - base.logits).norm() <= torch.finfo(again.dtype).eps ** 0.5 * base.logits.norm())


@contextmanager
def _last_position_only(model: HookedModel) -> Iterator[None]:
    """Within the context, logits are computed at the last position only."""

    def cut(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][:, -1:].contiguous(), *inputs[1:])  # a strided input would be multiplied row by row

    handle = model.bridge.unembed.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
