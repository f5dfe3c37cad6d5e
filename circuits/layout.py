"""A model taken apart into the stages of its graph, and put together again to see that nothing was lost.

The parts are the model's own weights, norms and MLPs. Attention is computed here, because each head's queries, keys and
values need inputs of their own; what it needs besides the weights (rotations, masks, ALiBi's slopes, soft caps, norms
of queries and keys) is read off one run of the model itself. The parts then have to give the logits of that run, so a
model that does anything that is not known here is refused instead of being misread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components.bloom_mlp import BloomMLPBridge
from transformer_lens.model_bridge.sources.native.model import NativeAttention

from circuits.choice import MLP, Choice
from circuits.graph import Graph, graph_of
from circuits.stages import Heads, Stage, Stream, Whole
from circuits.units import Units
from workbench.errors import ModelError, SettingError
from workbench.model import HookedModel
from workbench.norms import Norm, norm_of

EMBEDDED = "blocks.0.hook_resid_pre"

Adds = Callable[[int, Stream], Stream]
"""From a stage's number and what it would add to the residual stream, what is added."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What the stages read and wrote in one run. `n` counts prompts, or is 1 where all prompts share it."""

    streams: dict[int, Stream]
    """The residual stream after so many sources have written."""
    states: list[Tensor]
    """The embedding, then the state of each stage but the logits."""
    logits: Float[Tensor, "n d_vocab"] | None
    """At the last position."""
    taps: list[tuple[Tensor, ...]] = field(default_factory=list)
    """Of each stage, if they were asked for."""
    added: list[Stream] = field(default_factory=list)
    """The embedding and what each stage added, if taps were asked for."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The stages of a model for prompts of one length; `stages[i]` computes the nodes of `graph.spans[i]`."""

    graph: Graph
    stages: tuple[Stage, ...]
    embed: Callable[[Int[Tensor, "n pos"]], Stream]
    name: str = "custom"

    @cached_property
    def settled(self) -> int:
        """From this stage on, every position is computed by itself."""
        number = len(self.stages)
        while number and isinstance(self.stages[number - 1], Whole | Units):
            number -= 1
        return number

    @cached_property
    def last(self) -> tuple[Stage, ...]:
        """The stages, if only the logits count: the last that looks back does so from the last position only."""
        number = self.settled - 1
        stage = self.stages[number]
        if not isinstance(stage, Heads):
            return self.stages
        return (*self.stages[:number], replace(stage, bias=stage.bias[:, -1:]), *self.stages[number + 1 :])

    def run(self, embedded: Stream, *, taps: bool = False, adds: Adds | None = None) -> Trace:
        """The plain run, from the embedding on. With `taps`, they and what the stages add are kept for gradients.

        `adds` changes what stages add; states are as computed.
        """
        trace = self.resume(0, {1: embedded}, taps=taps, adds=adds)
        return replace(trace, states=[embedded, *trace.states], added=[embedded, *trace.added])

    def resume(
        self,
        number: int,
        streams: dict[int, Stream],
        *,
        taps: bool = False,
        adds: Adds | None = None,
    ) -> Trace:
        """The plain run from stage `number` on; its lists begin there.

        `streams` holds what the residual stream is after so many sources, for those that the stages read.
        """
        trace = Trace(dict(streams), [], None)
        for at in range(number, len(self.stages)):
            span, stage = self.graph.spans[at], self.stages[at]
            tapped = stage.taps(trace.streams[span.reads])
            state = stage.emit(tapped)
            if taps:
                trace.taps.append(tapped)
            if not span.sources:
                return replace(trace, logits=state)
            added = stage.added(state)
            if adds:
                added = adds(at, added)
            trace.states.append(state)
            if taps:
                trace.added.append(added)
            trace.streams[span.sources.stop] = trace.streams[span.sources.start] + added
        raise AssertionError("a graph ends in the logits")

    def added(self, number: int, states: list[Tensor]) -> Stream:
        """What a stage as a whole added to the residual stream, or the input if `number` is -1."""
        return states[0] if number < 0 else self.stages[number].added(states[number + 1])

    def reading(self, states: list[Tensor]) -> Trace:
        """The run in which the nodes write `states`, whatever they read."""
        streams = {1: states[0]}
        for number, span in enumerate(self.graph.spans[:-1]):
            streams[span.sources.stop] = streams[span.sources.start] + self.added(number, states)
        logits = self.stages[-1]
        return Trace(streams, states, logits.emit(logits.taps(streams[self.graph.spans[-1].reads])))

    def expand(self, number: int, states: list[Tensor], which: Tensor | None = None) -> Float[Tensor, "u n pos d"]:
        """What the nodes of a stage wrote, or the input if `number` is -1."""
        if number < 0:
            return states[0][None]
        return self.stages[number].expand(states[number + 1], which)

    def difference(
        self, number: int, states: list[Tensor], others: list[Tensor], which: Tensor | None = None
    ) -> Float[Tensor, "u n pos d"]:
        """What the nodes of a stage wrote in one run, less what they wrote in another."""
        if number < 0:
            return (states[0] - others[0])[None]
        return self.stages[number].expand(states[number + 1] - others[number + 1], which)


def take_apart(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], units: Mapping[int, Choice] | None = None
) -> Layout:
    """The stages of a model for prompts as long as `tokens`; `units`, by layer, are nodes of their own.

    Raises `ModelError` if the parts do not give the model's own logits for the first prompt, or have no such units;
    `SettingError` for wrong numbers of units.
    """
    tokens, units = tokens[:1].to(model.device), units or {}
    if missing := [layer for layer in units if not 0 <= layer < model.info.n_layers]:
        raise SettingError(
            f"{model.info.name} has no layer {missing[0]}; its layers are 0 to {model.info.n_layers - 1}"
        )
    calls, logits = _overhear(model, tokens)
    graph = graph_of(model, {layer: choice.names for layer, choice in units.items()})
    bridge, config = model.bridge, model.bridge.cfg
    length, width = tokens.shape[1], config.d_model
    norm = partial(norm_of, width=width)
    stages: list[Stage] = []
    try:
        for layer, (block, call) in enumerate(zip(bridge.blocks, calls, strict=True)):
            ln1 = norm(block.ln1) if hasattr(block, "ln1") else None
            stages.append(_heads(block, call, ln1, length, config))
            if not config.attn_only:
                ln2 = block.ln2 if hasattr(block, "ln2") else block.ln1
                after = getattr(block, "ln2_post", nn.Identity())
                if layer in units:
                    inner = partial(_mlp, ln2, block.mlp, nn.Identity())
                    mlp = MLP(model, layer, tokens, norm(ln2), inner, norm(after))
                    stages.append(units[layer].stage(mlp))
                else:
                    stages.append(Whole(partial(_mlp, ln2, block.mlp, after)))
        stages.append(Whole(partial(_last_logits, model)))
        layout = Layout(graph, tuple(stages), partial(_embed, model), model.info.name)
        with torch.no_grad():
            ours = layout.run(layout.embed(tokens)).logits
    except (AttributeError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"{model.info.architecture} is built in a way that circuits do not know ({error})") from error
    off = float((ours - logits).norm() / logits.norm())
    if not off < torch.finfo(model.dtype).eps ** 0.5:
        raise ModelError(
            f"{model.info.architecture} taken apart gives other logits (off by {off:.1e}): it computes something that "
            "circuits do not know"
        )
    return layout


def _overhear(model: HookedModel, tokens: Int[Tensor, "1 pos"]) -> tuple[list[dict[str, Any]], Tensor]:
    """With what the model calls the attention of each layer, and the logits at the last position."""
    calls: list[dict[str, Any]] = []
    _ = model.sites  # found by a run of its own
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
        for block in model.bridge.blocks
    ]
    try:
        logits = model.run(tokens).logits[:, -1]
    finally:
        for hook in hooks:
            hook.remove()
    return calls, logits


def _heads(block: nn.Module, call: dict[str, Any], norm: Norm | None, length: int, config: Any) -> Heads:
    attention = block.attn
    original = attention.original_component
    after = norm_of(block.ln1_post, config.d_model) if hasattr(block, "ln1_post") else None
    bias_out = _weight(attention, "b_O")
    if bias_out is not None and not bias_out.any():
        bias_out = None
    if after is not None and (after.centred or after.bias.any()):
        raise ModelError("a norm after attention must be an RMSNorm, to be told apart")
    W_O = _weight(attention, "W_O")
    if after is not None and bias_out is not None:
        share = (bias_out / len(W_O)).expand(len(W_O), 1, -1)
        W_O, bias_out = torch.cat([W_O, share], dim=1), None
    return Heads(
        norm,
        *(_weight(attention, name) for name in ("W_Q", "W_K", "W_V")),
        W_O if after is None else W_O * after.gain,
        *(_weight(attention, name) for name in ("b_Q", "b_K", "b_V")),
        bias_out,
        _preparation(attention, call, config),
        _bias(original, call, length, W_O),
        _scale(original, config),
        _soft_cap(original),
        after,
    )


def _weight(attention: nn.Module, name: str) -> Tensor | None:
    weight = getattr(attention, name, None)
    return None if weight is None else weight.detach()


def _scale(original: nn.Module, config: Any) -> float:
    if isinstance(original, NativeAttention):
        return 1 / original.scale
    for name in ("scaling", "inv_norm_factor"):
        if getattr(original, name, None) is not None:
            return float(getattr(original, name))
    return config.d_head**-0.5


def _soft_cap(original: nn.Module) -> float | None:
    names = ("attn_logit_softcapping", "attn_scores_soft_cap")
    cap = next((value for name in names if (value := getattr(original, name, None)) is not None), None)
    return float(cap) if cap is not None and cap > 0 else None


def _bias(original: nn.Module, call: dict[str, Any], length: int, like: Tensor) -> Float[Tensor, "#head query key"]:
    """What is added to the scores."""
    future = torch.ones(length, length, dtype=torch.bool, device=like.device).triu(1)
    bias = torch.zeros(1, length, length, dtype=like.dtype, device=like.device).masked_fill(future, float("-inf"))
    mask = call.get("attention_mask")
    if mask is not None and mask.ndim == 4:  # a sliding window, too
        hidden = ~mask[0] if mask.dtype == torch.bool else mask[0] <= torch.finfo(mask.dtype).min / 2
        bias = bias.masked_fill(hidden, float("-inf"))
    window = getattr(original, "sliding_window", None)
    if window is not None:
        distance = torch.arange(length, device=like.device)
        bias = bias.masked_fill(distance[:, None] - distance >= window, float("-inf"))
    if call.get("alibi") is not None:
        bias = bias + call["alibi"].to(like.dtype)
    return bias


def _preparation(attention: nn.Module, call: dict[str, Any], config: Any) -> Callable:
    """What happens to queries and keys between projection and scores."""
    norms = tuple(_head_norm(attention, name, config.d_head) for name in ("q_norm", "k_norm"))
    original = attention.original_component
    if isinstance(original, NativeAttention):
        rotate = _leave if original.rotary is None else partial(_rotate_native, original.rotary)
    elif call.get("position_embeddings") is not None:
        cos, sin = (part[0].detach() for part in call["position_embeddings"])
        rotate = partial(_rotate, cos, sin)
    else:
        rotate = _leave
    return rotate if norms == (None, None) else partial(_norm_first, norms, rotate)


def _head_norm(attention: nn.Module, name: str, width: int) -> Norm | None:
    module = getattr(attention, name, None)
    return None if module is None else norm_of(module, width)


def _norm_first(norms: tuple, then: Callable, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return then(norms[0](q), norms[1](k))


def _leave(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return q, k


def _rotate_native(rotary: nn.Module, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return rotary.apply_rope(q, k, position_ids=None)


def _rotate(cos: Tensor, sin: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864) of the first dimensions, paired half by half."""

    def turn(x: Float[Tensor, "n head pos d"]) -> Float[Tensor, "n head pos d"]:
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned

    return turn(q), turn(k)


def _mlp(norm: nn.Module, mlp: nn.Module, after: nn.Module, stream: Stream) -> Stream:
    normed = norm(stream)
    out = mlp(normed, torch.zeros_like(normed)) if isinstance(mlp, BloomMLPBridge) else mlp(normed)
    return after(out[0] if isinstance(out, tuple) else out)


def _last_logits(model: HookedModel, stream: Stream) -> Float[Tensor, "n d_vocab"]:
    return model.unembed(stream[:, -1])


def _embed(model: HookedModel, tokens: Int[Tensor, "n pos"]) -> Stream:
    return model.run(tokens, capture=[EMBEDDED], stop_after=EMBEDDED)[EMBEDDED]
