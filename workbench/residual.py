"""How what is inside attention and MLPs reaches the residual stream: heads through W_O, neurons through W_out.

Where a model puts a norm of its own behind a sublayer (Gemma 2), what is added to the stream has passed through it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge.generalized_components import NormalizationBridge

from workbench.errors import ModelError
from workbench.model import HookedModel
from workbench.norms import FrozenNorm, freeze


@dataclass(frozen=True, eq=False)
class Output:
    """The last, linear step of a sublayer as it was at some activations, in float32.

    The sublayer adds `norm(inside @ weight + bias)` to the stream; `inside` are the outputs of all heads side by side,
    or the neurons.
    """

    weight: Float[Tensor, "inside d_model"]
    bias: Float[Tensor, " d_model"]
    norm: FrozenNorm | None

    def part(self, inside: Float[Tensor, "*parts inside_"], units: slice = slice(None)) -> Float[Tensor, "*parts d"]:
        """What a part of `inside` (those `units`) adds to the stream."""
        written = inside.float() @ self.weight[units]
        return written if self.norm is None else self.norm.part(written)

    def pull(self, covector: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at inside"]:
        """What one unit of each of `inside` adds to the stream, measured by `covector`."""
        return self._before_norm(covector) @ self.weight.T

    def constant(self, covector: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at"]:
        """What the biases add to the stream, measured by `covector`."""
        added = self._before_norm(covector) @ self.bias
        return added if self.norm is None else added + covector @ self.norm.bias

    def _before_norm(self, covector: Tensor) -> Tensor:
        return covector if self.norm is None else self.norm.pull(covector)


def attention_output(
    model: HookedModel, layer: int, z: Float[Tensor, "*at head d_head"], out: Float[Tensor, "*at d_model"]
) -> Output:
    """From heads to the stream, given `attn.hook_z` and `hook_attn_out` of a layer. Raises `ModelError`."""
    attention = model.bridge.blocks[layer].attn
    weight = attention.W_O
    return _output(model, layer, "attention", weight.flatten(0, -2), attention.b_O, z.flatten(-2), out)


def mlp_output(
    model: HookedModel, layer: int, post: Float[Tensor, "*at d_mlp"], out: Float[Tensor, "*at d_model"]
) -> Output:
    """From neurons to the stream, given `mlp.hook_post` and `hook_mlp_out` of a layer. Raises `ModelError`."""
    mlp = model.bridge.blocks[layer].mlp
    return _output(model, layer, "MLP", mlp.W_out, mlp.b_out, post, out)


def _output(
    model: HookedModel, layer: int, kind: str, weight: Tensor, bias: Tensor | None, inside: Tensor, out: Tensor
) -> Output:
    """The output step, with whichever norm of the block leads from its sum to `out`."""
    weight = weight.detach().float()
    bias = torch.zeros_like(weight[0]) if bias is None else bias.detach().float()
    written = (inside.float() @ weight + bias).to(out.dtype)
    if _close(written, out):
        return Output(weight, bias, None)
    for part in model.bridge.blocks[layer].children():
        if isinstance(part, NormalizationBridge) and _close(part(written), out):
            return Output(weight, bias, freeze(part, written))
    raise ModelError(f"{model.info.name} does more in layer {layer} to what its {kind} writes than the workbench knows")


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).float().norm() <= torch.finfo(b.dtype).eps ** 0.5 * b.float().norm())
