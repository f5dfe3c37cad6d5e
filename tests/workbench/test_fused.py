"""The quick forward gives the same activations, leaves the model as it was, and is not trusted blindly."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench import fused as module
from workbench.fused import fused
from workbench.model import HookedModel

SITES = (
    ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"],
    ["blocks.1.hook_attn_out", "blocks.2.hook_mlp_out"],
    ["blocks.1.attn.hook_z", "blocks.2.attn.hook_k"],
    ["blocks.1.ln1.hook_normalized"],
)


@pytest.mark.parametrize("sites", SITES, ids=lambda sites: sites[-1])
def test_the_same_activations(model: HookedModel, prompt: Tensor, sites: list[str]) -> None:
    plain = model.run(prompt, capture=sites)
    context = fused(model, sites, prompt, stop_after=sites[-1])
    assert context is not nullcontext
    with context():
        quick = model.run(prompt, capture=sites, stop_after=sites[-1])
    for site in sites:
        assert torch.allclose(plain[site], quick[site], atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind(model: HookedModel, prompt: Tensor) -> None:
    site = "blocks.1.hook_resid_post"
    before = model.run(prompt, capture=["blocks.1.attn.hook_pattern", "blocks.1.ln1.hook_scale"])
    context = fused(model, [site], prompt, stop_after=site)
    with pytest.raises(RuntimeError, match="midway"), context():
        raise RuntimeError("midway")
    after = model.run(prompt, capture=["blocks.1.attn.hook_pattern", "blocks.1.ln1.hook_scale"])
    assert torch.equal(before.logits, after.logits)
    assert all(torch.equal(before[name], after[name]) for name in before.sites)


def test_attention_is_left_to_the_wrapped_module(hooked, prompt: Tensor) -> None:
    """Within the context, nothing asks for the pattern, so it is not computed."""
    model, site = hooked("llama"), "blocks.1.hook_resid_post"
    context, seen = fused(model, [site], prompt, stop_after=site), []
    handle = model.bridge.blocks[0].attn.hook_pattern.register_forward_hook(lambda *_: seen.append(True))
    with context():
        model.run(prompt, capture=[site], stop_after=site)
    assert not seen
    model.run(prompt, capture=[site], stop_after=site)
    handle.remove()
    assert seen


@pytest.mark.parametrize("fault", ["a little off", "an error"])
def test_a_model_that_differs_is_left_alone(fault: str, hooked, prompt: Tensor, monkeypatch) -> None:
    model, site = hooked("gpt2"), "blocks.1.hook_resid_post"
    norm = model.bridge.blocks[0].ln1

    def wrong(x: Tensor) -> Tensor:
        if fault == "an error":
            raise TypeError("a module that needs more than this")
        return norm.original_component(x) * 1.01

    monkeypatch.setattr(module, "_unobserved", lambda *_: {norm: wrong})
    assert fused(model, [site], prompt, stop_after=site) is nullcontext
    expected = norm.original_component(torch.ones(1, 1, 32))
    assert torch.allclose(norm(torch.ones(1, 1, 32)), expected)


def test_scores_with_a_soft_cap_are_not_left_to_sdpa(hooked) -> None:
    assert module._has_exact_sdpa(hooked("llama").bridge.original_model)
    assert not module._has_exact_sdpa(hooked("gemma2").bridge.original_model)


def test_a_native_bridge_is_left_alone() -> None:
    config = TransformerBridgeConfig(
        n_layers=1, d_model=16, n_ctx=16, d_head=8, n_heads=2, d_vocab=30, d_mlp=32, act_fn="relu", seed=0
    )
    model = HookedModel(TransformerBridge.boot_native(config, device="cpu"))
    tokens = torch.arange(8)[None]
    assert fused(model, ["blocks.0.hook_resid_post"], tokens, "blocks.0.hook_resid_post") is nullcontext
