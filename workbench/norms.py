"""LayerNorm and RMSNorm as plain numbers: what they do to vectors, to weights that read them, and to gradients.

A norm divides by a scale that depends on the whole vector. With that scale held where it was at some activations, it is
an affine map, and what it makes of a sum is exactly the sum of what it makes of the parts, and its bias.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import ModelError


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm (centred) or RMSNorm: y = gain · (x - mean) / sqrt(mean((x - mean)²) + eps) + bias.

    An RMSNorm takes no mean away, and has no bias.
    """

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    eps: float
    centred: bool

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        if self.centred:
            return functional.layer_norm(x, self.gain.shape, self.gain, self.bias, self.eps)
        return functional.rms_norm(x, self.gain.shape, self.gain, self.eps)

    def centre(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def rms(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """What it divides by; `x` is centred."""
        return (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def fold(self, W: Float[Tensor, "... d d_out"]) -> Float[Tensor, "... d d_out"]:
        """A matrix that reads the norm's output, as one that reads its input, but for the division and the bias."""
        return self.centre((self.gain[:, None] * W).mT).mT

    def pull(self, x: Float[Tensor, "... d"], gradient: Float[Tensor, "v ... d"]) -> Float[Tensor, "v ... d"]:
        """Gradients with respect to x, given gradients with respect to the output: the transposed Jacobian at x."""
        x = self.centre(x)
        inverse = 1 / self.rms(x)
        unit = x * inverse
        gradient = gradient * (self.gain * inverse)  # large, so the rest is done in place
        along = torch.einsum("v...d,...d->v...", gradient, unit) / x.shape[-1]
        if self.centred:
            gradient -= gradient.mean(-1, keepdim=True)
        return gradient.addcmul_(along[..., None], unit, value=-1)

    def held(self, scale: Float[Tensor, "*at 1"]) -> "FrozenNorm":
        """The norm with what it divides by held at `scale`."""
        return FrozenNorm(self.gain.float(), self.bias.float(), self.centred, scale.float())


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """The map `x ↦ gain · centre(x) / scale + bias` that a norm was at some activations, in float32."""

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    centred: bool
    scale: Float[Tensor, "*at 1"]
    """What the norm divided by at each of the activations."""

    def __call__(self, x: Float[Tensor, "*at d"]) -> Float[Tensor, "*at d"]:
        return self.part(x) + self.bias

    def part(self, x: Float[Tensor, "*parts d"]) -> Float[Tensor, "*parts d"]:
        """What a part of the activations becomes, without the bias."""
        return self._centre(x.float()) * self.gain / self.scale

    def pull(self, covector: Float[Tensor, "*at d"]) -> Float[Tensor, "*at d"]:
        """The covector that gives on the norm's input what `covector` gives on its output, but for the bias."""
        return self._centre(covector * self.gain) / self.scale

    def first(self, n: int) -> "FrozenNorm":
        """The norm at the first `n` activations."""
        return replace(self, scale=self.scale[:n])

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


def nothing(like: Float[Tensor, " d"]) -> Norm:
    """The gain and bias of a norm that is not there."""
    return Norm(torch.ones_like(like), torch.zeros_like(like), 0.0, centred=False)


@torch.no_grad()
def norm_of(module: nn.Module, width: int) -> Norm | None:
    """The numbers of a norm module, measured by what it does; None for one that does nothing.

    Measured, not read: a gain may be written as 1 + weight (Gemma). Raises `ModelError` if it is neither a LayerNorm
    nor an RMSNorm.
    """
    original = getattr(module, "original_component", module)
    parameter = next(module.parameters(), torch.zeros(1))
    eps = float(getattr(original, "eps", getattr(original, "variance_epsilon", 1e-5)))
    signs = torch.ones(width, dtype=parameter.dtype, device=parameter.device)
    signs[1::2] = -1
    generator = torch.Generator().manual_seed(0)
    probe = (0.1 * torch.randn(3, width, generator=generator) + 0.3).to(parameter)
    truth = module(probe)
    if torch.equal(truth, probe):
        return None
    bias = module(torch.zeros_like(signs)[None])[0]
    gain = (module(signs[None])[0] - bias) * signs * (1 + eps) ** 0.5
    tolerance = 20 * torch.finfo(parameter.dtype).eps * float(truth.abs().max())
    for centred in (True, False):
        norm = Norm(gain, bias, eps, centred)
        if (centred or not bias.any()) and torch.allclose(norm(probe), truth, rtol=0, atol=tolerance):
            return norm
    raise ModelError(f"{type(original).__name__} is neither a LayerNorm nor an RMSNorm")


def freeze(module: nn.Module, x: Float[Tensor, "*at d"]) -> FrozenNorm:
    """A norm module as it is at the activations `x`. Raises `ModelError` as `norm_of`."""
    norm = norm_of(module, x.shape[-1])
    if norm is None:
        return nothing(x.new_zeros(x.shape[-1])).held(torch.ones_like(x[..., :1]))
    return norm.held(norm.rms(norm.centre(x.float())))
