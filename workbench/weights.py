"""The weights of heads and MLPs, a matrix for each head, and the norms between them and the residual stream.

Two forms. *Raw* matrices are what the model multiplies with: q = x W_Q + b_Q, where x is the output of the block's
norm, and attn_out = sum over heads of z W_O, + b_O. *Linear* ones act on the residual stream itself, the norm's gain
and centring folded in; what they leave out is the norm's division by the size of the stream, one number a position.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench import norms
from workbench.errors import ModelError
from workbench.model import HookedModel
from workbench.norms import Norm


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """The attention of one layer. Under grouped-query attention there are fewer heads of keys and values."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_value"]
    W_O: Float[Tensor, "head d_value d_model"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "kv_head d_head"]
    b_V: Float[Tensor, "kv_head d_value"]
    b_O: Float[Tensor, " d_model"]

    def per_query_head(self) -> "HeadWeights":
        """The same with a copy of the keys' and values' weights for each query head that they serve."""
        n = len(self.W_Q) // len(self.W_K)
        shared = {name: getattr(self, name).repeat_interleave(n, dim=0) for name in ("W_K", "W_V", "b_K", "b_V")}
        return replace(self, **shared)


@dataclass(frozen=True, eq=False)
class MLPWeights:
    """pre = x W_in + b_in; post = act(pre), or act(x W_gate) * pre in a gated MLP; output = post W_out + b_out."""

    W_in: Float[Tensor, "d_model d_mlp"]
    W_gate: Float[Tensor, "d_model d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_in: Float[Tensor, " d_mlp"]
    b_out: Float[Tensor, " d_model"]


def head_weights(model: HookedModel, layer: int) -> HeadWeights:
    """Raw weights of a layer's attention; biases that the model lacks are zeros.

    Raises `ModelError` where a layer's attention is not made of such matrices.
    """
    attention = block(model, layer).attn
    try:
        matrices = {name: getattr(attention, name) for name in ("W_Q", "W_K", "W_V", "W_O")}
        biases = {name: getattr(attention, name) for name in ("b_Q", "b_K", "b_V", "b_O")}
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise ModelError(f"the attention of {model.info.architecture} has no matrices of its heads ({error})") from None
    shapes = {f"b_{name[-1]}": (len(W), W.shape[-1]) for name, W in matrices.items()} | {"b_O": (model.info.d_model,)}
    for name, bias in biases.items():
        biases[name] = matrices["W_Q"].new_zeros(shapes[name]) if bias is None else bias
    return HeadWeights(**matrices, **biases)


def linear_heads(model: HookedModel, layer: int) -> HeadWeights:
    """Weights of a layer's heads as they read and write the residual stream, one of each for every query head.

    The gains of the norms before (and, in Gemma 2, after) attention are in the matrices. What a centring norm cannot
    see is in neither side: W_O writes no mean. Biases are left as they are. Raises `ModelError` where the heads do not
    read the residual stream through a norm before the block.
    """
    _check_reading(model, layer)
    heads = head_weights(model, layer).per_query_head()
    before = norm_of(model, layer, "ln1")
    reading = {name: before.fold(getattr(heads, name)) for name in ("W_Q", "W_K", "W_V")}
    return replace(heads, **reading, W_O=before.centre(norm_of(model, layer, "ln1_post").gain * heads.W_O))


def mlp_weights(model: HookedModel, layer: int) -> MLPWeights:
    """Raw weights of a layer's MLP. Raises `ModelError` for a mixture of experts, or a layer without an MLP."""
    mlp = getattr(block(model, layer), "mlp", None)
    if model.info.n_experts or mlp is None or getattr(mlp, "W_out", None) is None:
        what = f"a mixture of {model.info.n_experts} experts" if model.info.n_experts else "no MLP"
        raise ModelError(f"layer {layer} of {model.info.name} has {what}; neurons are those of one MLP a layer")
    biases = {"b_in": (mlp.b_in, mlp.W_in.shape[1]), "b_out": (mlp.b_out, model.info.d_model)}
    filled = {name: mlp.W_in.new_zeros(size) if bias is None else bias for name, (bias, size) in biases.items()}
    return MLPWeights(mlp.W_in, mlp.W_gate, mlp.W_out, **filled)


def unembedding(model: HookedModel) -> Float[Tensor, "d_model d_vocab"]:
    """W_U with the gain and centring of the final norm folded in: a direction's logits but for the norm's division."""
    return final_norm(model).fold(model.W_U)


def final_norm(model: HookedModel) -> Norm:
    """The norm before the unembedding; does nothing if lacking."""
    return _norm(model, getattr(model.bridge, "ln_final", None))


def norm_of(model: HookedModel, layer: int, name: str) -> Norm:
    """A norm of a block: `ln1` before attention, `ln1_post` after it, `ln2`, `ln2_post`; does nothing if lacking."""
    return _norm(model, getattr(block(model, layer), name, None))


def block(model: HookedModel, layer: int) -> nn.Module:
    """Raises `ModelError` for a layer that the model does not have."""
    if not 0 <= layer < model.info.n_layers:
        raise ModelError(f"{model.info.name} has no layer {layer}; its layers are 0 to {model.info.n_layers - 1}")
    return model.bridge.blocks[layer]


def _norm(model: HookedModel, module: nn.Module | None) -> Norm:
    norm = None if module is None else norms.norm_of(module, model.info.d_model)
    return norm or norms.nothing(torch.zeros(model.info.d_model, device=model.device, dtype=model.dtype))


def _check_reading(model: HookedModel, layer: int) -> None:
    """Whether v = norm(stream) W_V + b_V, on two tokens."""
    sites = [f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.attn.hook_v"]
    run = model.run(torch.tensor([[0, 1]]), capture=sites, stop_after=sites[1])
    weights = head_weights(model, layer)
    ours = torch.einsum("bpd,hde->bphe", norm_of(model, layer, "ln1")(run[sites[0]]), weights.W_V) + weights.b_V
    if not torch.allclose(ours, run[sites[1]].view_as(ours), rtol=1e-2, atol=1e-3 * float(ours.abs().max())):
        raise ModelError(f"the heads of {model.info.architecture} do not read the residual stream through one norm")
