"""The model of the paper: one transformer layer without norms or attention biases, which reads `a b =`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.grokking.setting import Setting
from workbench.model import HookedModel


class Adder(nn.Module):
    """Weights `[out, in]`; called with a and b, it returns the logits of the p answers after `=`.

    Only what that last position depends on is computed: of the other positions their keys and values, each of which is
    the same wherever its number stands. `hooked` gives the same model with every activation open.
    """

    def __init__(self, setting: Setting) -> None:
        """Random weights: normal, of variance 1/d_model; biases 0."""
        super().__init__()
        d, m, p = setting.d_model, setting.d_mlp, setting.p
        self.p, self.n_heads = p, setting.n_heads
        shapes = {"W_E": (p + 1, d), "W_pos": (3, d), "W_Q": (d, d), "W_K": (d, d), "W_V": (d, d), "W_O": (d, d)}
        shapes |= {"W_in": (m, d), "b_in": (m,), "W_out": (d, m), "b_out": (d,), "W_U": (p, d)}
        random = torch.Generator().manual_seed(setting.seed)
        for name, shape in shapes.items():
            start = torch.zeros(shape) if name[0] == "b" else torch.randn(shape, generator=random) / d**0.5
            self.register_parameter(name, nn.Parameter(start))

    def forward(self, a: Int[Tensor, " pair"], b: Int[Tensor, " pair"]) -> Float[Tensor, "pair p"]:
        numbers, equals = self.W_E[:-1], self.W_E[-1:] + self.W_pos[2]
        at = (numbers + self.W_pos[0], numbers + self.W_pos[1], equals)
        query = self._heads(equals, self.W_Q)
        scores = [(self._heads(x, self.W_K) * query).sum(-1) * query.shape[-1] ** -0.5 for x in at]  # [number head]
        values = [self._heads(x, self.W_V) for x in at]  # [number head d_head]
        which = (a, b, torch.zeros_like(a))
        pattern = torch.stack([score[i] for score, i in zip(scores, which, strict=True)], dim=-1).softmax(-1)
        z = sum(pattern[..., j, None] * values[j][i] for j, i in enumerate(which))  # [pair head d_head]
        resid_mid = equals + z.flatten(1) @ self.W_O.T
        neurons = (resid_mid @ self.W_in.T + self.b_in).relu()
        return (resid_mid + neurons @ self.W_out.T + self.b_out) @ self.W_U.T

    def _heads(self, x: Float[Tensor, "number d_model"], weight: Tensor) -> Float[Tensor, "number head d_head"]:
        return (x @ weight.T).unflatten(-1, (self.n_heads, -1))


def all_pairs(p: int) -> Int[Tensor, "pair 2"]:
    """Every a and b; pair a·p + b is (a, b)."""
    return torch.cartesian_prod(torch.arange(p), torch.arange(p))


@torch.no_grad()
def all_logits(adder: Adder) -> Float[Tensor, "a b p"]:
    """The logits of every sum."""
    return adder(*all_pairs(adder.p).T).unflatten(0, (adder.p, adder.p))


def as_tokens(pairs: Int[Tensor, "pair 2"], p: int) -> Int[Tensor, "pair 3"]:
    """`a b =` as tokens; `=` is token p."""
    return torch.cat([pairs, torch.full((len(pairs), 1), p)], dim=1)


def hooked(adder: Adder) -> HookedModel:
    """The same model with all of the workbench's sites, on tokens as `as_tokens` makes them."""
    d_model, d_mlp = adder.W_out.shape
    config = TransformerBridgeConfig(
        n_layers=1,
        n_ctx=3,
        d_model=d_model,
        n_heads=adder.n_heads,
        d_head=d_model // adder.n_heads,
        d_mlp=d_mlp,
        act_fn="relu",
        d_vocab=adder.p + 1,
        d_vocab_out=adder.p,
        normalization_type=None,
        positional_embedding_type="standard",
    )
    bridge = TransformerBridge.boot_native(config, device="cpu")
    block = bridge.blocks[0]
    places = {
        "W_E": bridge.embed.weight,
        "W_pos": bridge.pos_embed.weight,
        **{f"W_{name.upper()}": getattr(block.attn, name).weight for name in "qkvo"},
        "W_in": getattr(block.mlp, "in").weight,
        "b_in": getattr(block.mlp, "in").bias,
        "W_out": block.mlp.out.weight,
        "b_out": block.mlp.out.bias,
        "W_U": bridge.unembed.weight,
    }
    with torch.no_grad():
        for parameter in bridge.original_model.parameters():
            parameter.zero_()
        for name, parameter in adder.named_parameters():
            places[name].copy_(parameter)
    bridge.original_model.requires_grad_(False)
    return HookedModel(bridge, f"addition mod {adder.p}")
