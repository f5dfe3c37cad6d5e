"""Weights against the activations that the model makes of them, on every architecture."""

import pytest
import torch
from torch import Tensor

from workbench.errors import ModelError
from workbench.model import HookedModel
from workbench.weights import final_norm, head_weights, linear_heads, mlp_weights, norm_of, unembedding

ATTENTION = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "hook_attn_out")


def captured(model: HookedModel, prompt: Tensor, *names: str) -> dict[str, Tensor]:
    run = model.run(prompt, capture=[f"blocks.1.{name}" for name in names])
    return {name: run[f"blocks.1.{name}"] for name in names}


def test_queries_keys_and_values_are_the_norms_output_through_the_weights(model: HookedModel, prompt: Tensor):
    found = captured(model, prompt, "hook_resid_pre", *ATTENTION)
    weights = head_weights(model, 1)
    x = norm_of(model, 1, "ln1")(found["hook_resid_pre"])
    for letter in "QKV":
        W, b = getattr(weights, f"W_{letter}"), getattr(weights, f"b_{letter}")
        actual = found[f"attn.hook_{letter.lower()}"]
        torch.testing.assert_close(torch.einsum("bpd,hde->bphe", x, W) + b, actual, atol=1e-5, rtol=1e-5)


def test_heads_through_W_O_sum_to_the_output(model: HookedModel, prompt: Tensor):
    found = captured(model, prompt, *ATTENTION)
    weights = head_weights(model, 1)
    out = torch.einsum("bphe,hed->bpd", found["attn.hook_z"], weights.W_O) + weights.b_O
    if model.info.architecture.startswith("Gemma2"):
        out = norm_of(model, 1, "ln1_post")(out)
    torch.testing.assert_close(out, found["hook_attn_out"], atol=1e-5, rtol=1e-5)


def test_one_of_keys_and_values_for_each_query_head(model: HookedModel):
    grouped, each = head_weights(model, 0), head_weights(model, 0).per_query_head()
    assert each.W_K.shape[0] == each.W_V.shape[0] == model.info.n_heads
    for head in range(model.info.n_heads):
        own = head * model.info.n_kv_heads // model.info.n_heads
        assert torch.equal(each.W_K[head], grouped.W_K[own])


def test_linear_heads_give_values_but_for_the_norms_division(model: HookedModel, prompt: Tensor):
    found = captured(model, prompt, "hook_resid_pre", "attn.hook_v", "attn.hook_q")
    norm, weights = norm_of(model, 1, "ln1"), linear_heads(model, 1)
    x = found["hook_resid_pre"]
    size = (norm.centre(x).square().mean(-1) + norm.eps).sqrt()[..., None, None]
    raw = head_weights(model, 1)
    constant = torch.einsum("d,hde->he", norm.bias, raw.W_Q) + raw.b_Q
    linear = torch.einsum("bpd,hde->bphe", x, weights.W_Q) / size + constant
    torch.testing.assert_close(linear, found["attn.hook_q"], atol=1e-5, rtol=1e-5)
    if model.info.normalization == "LN":
        assert weights.W_O.mean(-1).abs().max() < 1e-6


def test_norms_are_the_models_own(model: HookedModel):
    x = torch.randn(5, model.info.d_model, generator=torch.Generator().manual_seed(0))
    for name in ("ln1", "ln2"):
        module = getattr(model.bridge.blocks[2], name)
        torch.testing.assert_close(norm_of(model, 2, name)(x), module(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(final_norm(model)(x), model.bridge.ln_final(x), atol=1e-5, rtol=1e-5)


def test_the_unembedding_but_for_the_norms_division(model: HookedModel):
    x = torch.randn(3, model.info.d_model, generator=torch.Generator().manual_seed(0))
    norm = final_norm(model)
    size = (norm.centre(x).square().mean(-1, keepdim=True) + norm.eps).sqrt()
    logits = x @ unembedding(model) / size + norm.bias @ model.W_U
    torch.testing.assert_close(logits, model.bridge.unembed(model.bridge.ln_final(x)), atol=1e-4, rtol=1e-4)


def test_mlps(model: HookedModel, prompt: Tensor):
    if model.info.n_experts:
        with pytest.raises(ModelError, match="a mixture of 4 experts"):
            mlp_weights(model, 1)
        return
    weights = mlp_weights(model, 1)
    found = captured(model, prompt, "mlp.hook_pre", "mlp.hook_post", "ln2.hook_normalized", "hook_mlp_out")
    before = norm_of(model, 1, "ln2")
    x = found["ln2.hook_normalized"] * before.gain + before.bias
    pre = x @ weights.W_in + weights.b_in if weights.W_gate is None else x @ weights.W_gate
    torch.testing.assert_close(pre, found["mlp.hook_pre"], atol=1e-5, rtol=1e-4)
    out = found["mlp.hook_post"] @ weights.W_out + weights.b_out
    if model.info.architecture.startswith("Gemma2"):
        out = norm_of(model, 1, "ln2_post")(out)
    torch.testing.assert_close(out, found["hook_mlp_out"], atol=1e-5, rtol=1e-5)


def test_a_layer_that_is_not_there(hooked):
    with pytest.raises(ModelError, match="has no layer 3; its layers are 0 to 2"):
        head_weights(hooked("gpt2"), 3)
