"""Activations inside a block against the same computed by hand from the weights in the file."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.model import HookedModel

Activations = dict[str, Tensor]


def split(x: Tensor, n_heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], n_heads, -1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Activations:
    """Causal attention of [batch pos head d] queries, keys and values."""
    group = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:]).triu(1).bool()
    pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
    return {"pattern": pattern, "z": torch.einsum("bhqk,bkhd->bqhd", pattern, v)}


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Activations:
    scale = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    normalized = (x - x.mean(-1, keepdim=True)) / scale
    return {"scale": scale, "normalized": normalized, "out": normalized * weight + bias}


def rms_norm(x: Tensor, weight: Tensor) -> Activations:
    scale = (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    return {"scale": scale, "normalized": x / scale, "out": x / scale * weight}


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def named(ln1: Activations, heads: Activations, ln2: Activations, mlp: Activations, rest: Activations) -> Activations:
    """The activations of a block under the names of their sites."""
    parts = (("ln1", ln1), ("ln2", ln2))
    norms = {f"{name}.hook_{key}": part[key] for name, part in parts for key in ("scale", "normalized")}
    inside = {f"{part}.hook_{key}": x for part, own in (("attn", heads), ("mlp", mlp)) for key, x in own.items()}
    return norms | inside | {f"hook_{key}": x for key, x in rest.items()}


def gpt2_block(x: Tensor, weights: Activations, layer: int) -> Activations:
    w = {key.removeprefix(f"transformer.h.{layer}."): value for key, value in weights.items()}
    ln1 = layer_norm(x, w["ln_1.weight"], w["ln_1.bias"])
    joint = ln1["out"] @ w["attn.c_attn.weight"] + w["attn.c_attn.bias"]
    q, k, v = (split(part, 4) for part in joint.chunk(3, dim=-1))
    attention = attend(q, k, v)
    attn_out = attention["z"].flatten(2) @ w["attn.c_proj.weight"] + w["attn.c_proj.bias"]
    mid = x + attn_out
    ln2 = layer_norm(mid, w["ln_2.weight"], w["ln_2.bias"])
    pre = ln2["out"] @ w["mlp.c_fc.weight"] + w["mlp.c_fc.bias"]
    mlp_out = gelu_new(pre) @ w["mlp.c_proj.weight"] + w["mlp.c_proj.bias"]
    heads = {"q": q, "k": k, "v": v, **attention}
    rest = {"resid_pre": x, "attn_out": attn_out, "resid_mid": mid, "mlp_out": mlp_out, "resid_post": mid + mlp_out}
    return named(ln1, heads, ln2, {"pre": pre, "post": gelu_new(pre)}, rest)


def rotate(x: Tensor) -> Tensor:
    """Rotary positions with base 10,000, the first half of each head paired with the second."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    cos, sin = (f(angles)[None, :, None] for f in (torch.cos, torch.sin))
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def llama_block(x: Tensor, weights: Activations, layer: int) -> Activations:
    w = {key.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): value for key, value in weights.items()}
    ln1 = rms_norm(x, w["input_layernorm"])
    q, k, v = (split(ln1["out"] @ w[f"self_attn.{name}_proj"].T, 4 if name == "q" else 2) for name in "qkv")
    rot_q, rot_k = rotate(q), rotate(k)
    attention = attend(rot_q, rot_k, v)
    attn_out = attention["z"].flatten(2) @ w["self_attn.o_proj"].T
    mid = x + attn_out
    ln2 = rms_norm(mid, w["post_attention_layernorm"])
    pre, linear = ln2["out"] @ w["mlp.gate_proj"].T, ln2["out"] @ w["mlp.up_proj"].T
    post = pre * pre.sigmoid() * linear
    mlp_out = post @ w["mlp.down_proj"].T
    heads = {"q": q, "k": k, "v": v, "rot_q": rot_q, "rot_k": rot_k, **attention}
    rest = {"resid_pre": x, "attn_out": attn_out, "resid_mid": mid, "mlp_out": mlp_out, "resid_post": mid + mlp_out}
    return named(ln1, heads, ln2, {"pre": pre, "pre_linear": linear, "post": post}, rest)


def check(model: HookedModel, prompt: Tensor, x: Tensor, block: Callable[[Tensor, int], Activations]) -> None:
    run = model.run(prompt, capture=model.sites)
    torch.testing.assert_close(run["blocks.0.hook_resid_pre"], x, atol=1e-5, rtol=0)
    for layer in range(3):
        by_hand = block(x, layer)
        for site in model.sites:
            name = site.removeprefix(f"blocks.{layer}.")
            if site.startswith(f"blocks.{layer}.") and name != "attn.hook_attn_scores":
                torch.testing.assert_close(run[site], by_hand[name], atol=1e-5, rtol=1e-5, msg=site)
        x = by_hand["hook_resid_post"]


def test_gpt2(hooked: Callable[[str], HookedModel], checkpoint: Callable[[str], Path], prompt: Tensor) -> None:
    weights = load_file(checkpoint("gpt2") / "model.safetensors")
    x = weights["transformer.wte.weight"][prompt] + weights["transformer.wpe.weight"][: prompt.shape[1]]
    check(hooked("gpt2"), prompt, x, lambda x, layer: gpt2_block(x, weights, layer))


def test_llama_with_grouped_queries(
    hooked: Callable[[str], HookedModel], checkpoint: Callable[[str], Path], prompt: Tensor
) -> None:
    weights = load_file(checkpoint("llama") / "model.safetensors")
    x = weights["model.embed_tokens.weight"][prompt]
    check(hooked("llama"), prompt, x, lambda x, layer: llama_block(x, weights, layer))
