"""A forward pass at the speed of the bare model, where nobody looks inside attention or norms.

TransformerBridge computes attention step by step, and each norm a second time, so that their insides have hook points.
The modules that it wraps do the same in one fused operation. Where no site lies inside, they are let do so.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components import AttentionBridge, NormalizationBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedModel

from workbench.model import HookedModel, Run


def fused(
    model: HookedModel, sites: Sequence[str], tokens: Int[Tensor, "batch pos"], stop_after: str
) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the model computes what `sites` do not look into by the modules that it wraps.

    The activations at `sites` on `tokens` are computed both ways, and must agree to the square root of the precision
    (relative error in the 2-norm); for a model where they do not, the context does nothing.
    """
    hf = model.bridge.original_model
    if not isinstance(hf, PreTrainedModel):
        return nullcontext
    parts = _unobserved(model, sites)
    whole = any(isinstance(part, AttentionBridge) for part in parts)
    attention = "sdpa" if whole and _has_exact_sdpa(hf) else hf.config._attn_implementation

    @contextmanager
    def context() -> Iterator[None]:
        before = hf.config._attn_implementation
        try:
            hf.config._attn_implementation = attention
            for part, forward in parts.items():
                part.__dict__["forward"] = forward  # a plain assignment would reach the wrapped module as well
            yield
        finally:
            hf.config._attn_implementation = before
            for part in parts:
                part.__dict__.pop("forward", None)

    plain = model.run(tokens, capture=sites, stop_after=stop_after)
    try:
        with context():
            quick = model.run(tokens, capture=sites, stop_after=stop_after)
    except Exception:  # a wrapped module that cannot work on its own fails in its own way
        return nullcontext
    return context if _agree(plain, quick) else nullcontext


def _unobserved(model: HookedModel, sites: Sequence[str]) -> dict[nn.Module, Callable]:
    """The attentions and norms that hold none of `sites`, each with a forward that calls the module it wraps."""
    plain: dict[type, Callable] = {}
    if not any(".attn." in site for site in sites):
        plain[AttentionBridge] = AttentionBridge.forward
    if not any(".hook_scale" in site or ".hook_normalized" in site for site in sites):
        plain[NormalizationBridge] = GeneralizedComponent.forward
    return {
        part: forward.__get__(part)
        for part in model.bridge.modules()
        for kind, forward in plain.items()
        if isinstance(part, kind)
    }


def _has_exact_sdpa(hf: PreTrainedModel) -> bool:
    """Whether torch's fused attention is the model's own; it has no soft cap on scores, as Gemma 2 needs."""
    return hf._supports_sdpa and getattr(hf.config, "attn_logit_softcapping", None) is None


def _agree(one: Run, other: Run) -> bool:
    tolerance = max(torch.finfo(one[site].dtype).eps for site in one.sites) ** 0.5
    return all((one[site] - other[site]).norm() <= tolerance * one[site].norm() for site in one.sites)
