"""Layer norms as plain numbers, so that what they do to a gradient can be written down."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import ModelError


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm (centred) or RMSNorm: y = weight · (x - mean) / sqrt(mean((x - mean)²) + eps) + bias."""

    weight: Float[Tensor, " d"]
    bias: Float[Tensor, " d"] | None
    eps: float
    centred: bool

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        if self.centred:
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def rms(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """What an RMSNorm divides by."""
        return (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def pull(self, x: Float[Tensor, "... d"], gradient: Float[Tensor, "v ... d"]) -> Float[Tensor, "v ... d"]:
        """Gradients with respect to x, given gradients with respect to the output: the transposed Jacobian at x."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        inverse = 1 / self.rms(x)
        unit = x * inverse
        gradient = gradient * (self.weight * inverse)  # large, so the rest is done in place
        along = torch.einsum("v...d,...d->v...", gradient, unit) / x.shape[-1]
        if self.centred:
            gradient -= gradient.mean(-1, keepdim=True)
        return gradient.addcmul_(along[..., None], unit, value=-1)


def norm_of(module: nn.Module, width: int) -> Norm | None:
    """The numbers of a norm module, measured by what it does; None for one that does nothing.

    Raises `ModelError` if it is neither a LayerNorm nor an RMSNorm.
    """
    original = getattr(module, "original_component", module)
    parameter = next(module.parameters(), torch.zeros(1))
    eps = next((getattr(original, name) for name in ("eps", "variance_epsilon") if hasattr(original, name)), 1e-5)
    signs = torch.ones(width, dtype=parameter.dtype, device=parameter.device)
    signs[1::2] = -1
    generator = torch.Generator().manual_seed(0)
    probe = (0.1 * torch.randn(3, width, generator=generator) + 0.3).to(parameter)
    with torch.no_grad():
        bias = module(torch.zeros_like(signs)[None])[0]
        truth = module(probe)
        if torch.equal(truth, probe):
            return None
        weight = (module(signs[None])[0] - bias) * signs * (1 + eps) ** 0.5
        tolerance = 20 * torch.finfo(parameter.dtype).eps * float(truth.abs().max())
        for centred in (True, False):
            norm = Norm(weight, bias if bias.any() else None, float(eps), centred)
            if (centred or norm.bias is None) and torch.allclose(norm(probe), truth, rtol=0, atol=tolerance):
                return norm
    raise ModelError(f"{type(original).__name__} is neither a LayerNorm nor an RMSNorm, so edges cannot be told apart")
