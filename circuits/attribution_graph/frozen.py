"""One prompt's run with its attention patterns and norm scales held fixed: all that is left between MLPs is linear.

Each part maps forwards when called, and backwards by `pull`, the transpose: from gradients with respect to its output
to gradients with respect to its input. A gradient may cover the first positions only: what comes later has no part in
what is earlier. That the parts are the model's own is checked against the run.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import ModelError
from workbench.model import HookedModel, Run
from workbench.norms import FrozenNorm, norm_of, nothing

Gradient = Float[Tensor, "target pos d"]

TOLERANCE = 1e-2
"""How far, as a share of its norm, an activation put together here may be from the model's: rounding, in any dtype."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention with a fixed pattern, its norms included: a linear map and a constant.

    Grouped-query attention stays grouped: `W_V` has one matrix for each head of keys and values.
    """

    pattern: Float[Tensor, "head query key"]
    W_V: Float[Tensor, "kv_head d d_head"]
    b_V: Float[Tensor, "kv_head d_head"]
    W_O: Float[Tensor, "head d_head d"]
    b_O: Float[Tensor, " d"]
    before: FrozenNorm
    after: FrozenNorm | None
    """The norm of attention's output that Gemma 2 has."""

    def __call__(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        values = torch.einsum("pd,kdf->pkf", self.before(x), self.W_V) + self.b_V
        mixed = torch.einsum("hqp,phf->qhf", self.pattern, values.repeat_interleave(self._group, dim=1))
        out = torch.einsum("qhf,hfd->qd", mixed, self.W_O) + self.b_O
        return self.after(out) if self.after else out

    def pull(self, gradient: Gradient) -> Gradient:
        n_targets, n = gradient.shape[:2]
        gradient = self.after.first(n).pull(gradient) if self.after else gradient
        mixed = torch.einsum("tqd,hfd->hqtf", gradient, self.W_O).flatten(2)
        values = (self.pattern[:, :n, :n].mT @ mixed).unflatten(0, (-1, self._group)).sum(1)  # [kv_head, pos, …]
        return self.before.first(n).pull(torch.einsum("kptf,kdf->tpd", values.unflatten(2, (n_targets, -1)), self.W_V))

    @property
    def _group(self) -> int:
        """Query heads to a head of keys and values."""
        return len(self.W_O) // len(self.W_V)

    @property
    def constant(self) -> Float[Tensor, "pos d"]:
        """What its biases write: its output for an input of zeros."""
        return self(self.pattern.new_zeros(self.pattern.shape[1], self.W_O.shape[2]))


@dataclass(frozen=True, eq=False)
class Block:
    """A block without its MLP."""

    attention: Attention
    parallel: bool
    """Whether the MLP reads the block's input, beside attention, instead of what comes after attention."""
    read: FrozenNorm
    """From the residual stream to `ln2.hook_normalized`, where the norm's weights have not been applied yet."""
    mlp_out: Float[Tensor, "pos d"]


@dataclass(frozen=True, eq=False)
class Frozen:
    """The linear parts of one run, in 32-bit floats."""

    embedding: Float[Tensor, "pos d"]
    """The residual stream before the first block."""
    blocks: tuple[Block, ...]
    final: FrozenNorm
    W_U: Float[Tensor, "d d_vocab"]
    b_U: Float[Tensor, " d_vocab"]


def frozen_sites(model: HookedModel) -> tuple[str, ...]:
    """The sites that decide where attention looks and what norms divide by: patterns and scales of every layer."""
    ends = ("attn.hook_pattern", "ln1.hook_scale", "ln2.hook_scale", "ln1_post.hook_scale", "ln_final.hook_scale")
    return tuple(site for site in model.sites if site.endswith(ends))


def sites_to_freeze(model: HookedModel) -> tuple[str, ...]:
    """What `freeze` needs captured."""
    outputs = ("blocks.*.hook_resid_pre", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out", "blocks.*.hook_resid_post")
    return (*frozen_sites(model), *outputs)


def freeze(model: HookedModel, run: Run) -> Frozen:
    """The linear parts of a run of one prompt, which captured `sites_to_freeze`.

    Raises `ModelError` if the model's attention, residual stream or logits are not made as they are here.
    """
    seen = {site: value[0].float() for site, value in run.activations.items()}
    blocks = tuple(_block(model, layer, seen) for layer in range(model.info.n_layers))
    bridge = model.bridge
    final = _norm(bridge.ln_final, seen["ln_final.hook_scale"], model.info.d_model)
    W_U = model.W_U.detach().float()
    b_U = getattr(bridge, "b_U", None)
    b_U = W_U.new_zeros(W_U.shape[1]) if b_U is None else b_U.detach().float()
    frozen = Frozen(seen["blocks.0.hook_resid_pre"], blocks, final, W_U, b_U)
    _check(model, frozen, seen, run.logits[0].float())
    return frozen


def _block(model: HookedModel, layer: int, seen: dict[str, Tensor]) -> Block:
    part, at, width = model.bridge.blocks[layer], f"blocks.{layer}.", model.info.d_model
    for name in ("ln1.hook_scale", "ln2.hook_scale", "attn.hook_pattern"):
        if at + name not in seen:
            raise ModelError(f"an attribution graph holds {at}{name} fixed, and {model.info.name} has no such site")
    W_V, W_O = part.attn.W_V.detach().float(), part.attn.W_O.detach().float()
    after = seen.get(f"{at}ln1_post.hook_scale")
    attention = Attention(
        seen[f"{at}attn.hook_pattern"],
        W_V,
        _or_zeros(part.attn.b_V, W_V.shape[0], W_V.shape[2], like=W_V),
        W_O,
        _or_zeros(part.attn.b_O, width, like=W_O),
        _norm(part.ln1, seen[f"{at}ln1.hook_scale"], width),
        None if after is None else _norm(part.ln1_post, after, width),
    )
    scale = seen[f"{at}ln2.hook_scale"]
    read = FrozenNorm(scale.new_ones(width), scale.new_zeros(width), not part.ln2.uses_rms_norm, scale)
    return Block(attention, f"{at}hook_resid_mid" not in model.sites, read, seen[f"{at}hook_mlp_out"])


def _or_zeros(bias: Tensor | None, *shape: int, like: Tensor) -> Tensor:
    return like.new_zeros(shape) if bias is None else bias.detach().float().view(shape)


def _norm(module: nn.Module, scale: Float[Tensor, "pos 1"], width: int) -> FrozenNorm:
    return (norm_of(module, width) or nothing(scale.new_zeros(width))).held(scale)


def _check(model: HookedModel, frozen: Frozen, seen: dict[str, Tensor], logits: Float[Tensor, "pos d_vocab"]) -> None:
    name = model.info.name
    for layer, block in enumerate(frozen.blocks):
        at = f"blocks.{layer}.hook_"
        before, attended = seen[f"{at}resid_pre"], seen[f"{at}attn_out"]
        _compare(block.attention(before), attended, f"the attention of layer {layer} of {name}")
        _compare(before + attended + block.mlp_out, seen[f"{at}resid_post"], f"the residual stream of {name}")
    own = frozen.final(seen[f"blocks.{len(frozen.blocks) - 1}.hook_resid_post"]) @ frozen.W_U + frozen.b_U
    cap = model.bridge.cfg.output_logits_soft_cap
    _compare(cap * (own / cap).tanh() if cap and cap > 0 else own, logits, f"the unembedding of {name}")


def _compare(own: Tensor, true: Tensor, what: str) -> None:
    if not (own - true).norm() <= TOLERANCE * true.norm():
        raise ModelError(f"{what} is not the usual one, so its effects cannot be told apart linearly")
