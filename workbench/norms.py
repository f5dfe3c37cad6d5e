"""A norm with its scale held: at given activations, LayerNorm and RMSNorm are affine maps.

Logit attribution needs what each part of the residual stream does to the logits, and a norm stands in between. It
divides by a scale that depends on the whole stream; with that scale held where it was, the norm is affine, and what a
sum makes of it is exactly the sum of what its parts make of it, and the norm's bias.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ModelError

_LEVEL = 64.0
"""Size of the entries with which a norm's gain is measured: large, so that its epsilon does not show."""


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """The map `x ↦ gain · centre(x) / scale + bias` that a norm was at some activations, in float32."""

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    centred: bool
    """Whether the mean over the entries is taken away first, as LayerNorm does and RMSNorm does not."""
    scale: Float[Tensor, "*at 1"]
    """What the norm divided by at each of the activations."""

    def part(self, x: Float[Tensor, "*parts d"]) -> Float[Tensor, "*parts d"]:
        """What a part of the activations becomes, without the bias."""
        return self._centre(x.float()) * self.gain / self.scale

    def pull(self, covector: Float[Tensor, "*at d"]) -> Float[Tensor, "*at d"]:
        """The covector that gives on the norm's input what `covector` gives on its output, but for the bias."""
        return self._centre(covector * self.gain) / self.scale

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


@torch.no_grad()
def freeze(norm: Callable[[Tensor], Tensor], x: Float[Tensor, "*at d"]) -> FrozenNorm:
    """`norm` as it is at the activations `x`.

    Gain, bias and centring are measured on the norm itself, so that it may be a LayerNorm or an RMSNorm, with or
    without weights, or with a gain written as 1 + weight (Gemma), or no norm at all. Raises `ModelError` if it is none
    of these.
    """
    level = torch.full((1, x.shape[-1]), _LEVEL, dtype=x.dtype, device=x.device)
    signs = torch.ones_like(level)
    signs[:, 1::2] = -1
    bias = norm(torch.zeros_like(level)).float()[0]
    gain = signs[0] * (norm(signs * level).float()[0] - bias)
    centred = bool((norm(level).float()[0] - bias).norm() < 0.5 * gain.norm())
    unit = FrozenNorm(gain, bias, centred, torch.ones_like(x[..., :1]).float())
    unscaled, out = unit.part(x), norm(x).float() - bias
    overlap = (unscaled * out).sum(-1, keepdim=True)
    scale = torch.where(overlap > 0, (unscaled**2).sum(-1, keepdim=True) / overlap, 1.0)
    frozen = FrozenNorm(gain, bias, centred, scale)
    if (frozen.part(x) - out).norm() > torch.finfo(x.dtype).eps ** 0.5 * out.norm():
        raise ModelError(
            "a norm of this model is neither a LayerNorm nor an RMSNorm, so it cannot be held at its scale"
        )
    return frozen
