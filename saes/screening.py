"""Where large pre-activations can be: upper bounds on all of them, from a product of 8-bit integers.

The encoder's product is the one dense product of a training step, and serves only to find the few entries that matter.
In 8-bit integers it takes about half the time on a processor with AVX2, less on one with VNNI, and is off by little:
what it finds is then scored in full precision.

The rounding error of a coordinate is taken to be uniform, and independent of the others. A sum of such errors is
sub-Gaussian: it exceeds `MARGIN` times its standard deviation with a probability below exp(-MARGIN**2 / 2), 2.3e-11.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

MARGIN = 7.0
LEVELS, WEIGHT_LEVELS = 110, 74
"""Inputs are whole numbers from 0 to twice `LEVELS`, weights lie within `WEIGHT_LEVELS` of 0. Without VNNI two products
are added up in 16 bits, and these just fit; inputs get the finer steps, as one step must serve many rows of them."""
AT_LEAST = 2**20
"""Weights below which bounds do not pay."""
ROWS = 128
"""Rows of weights rounded at a time, so that they stay in cache."""


class Bounds:
    """Upper bounds on the entries of (x @ W_enc + bias) * norms."""

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        norms: Float[Tensor, " d_sae"] | None,
        typical: Float[Tensor, " d_in"],
    ) -> None:
        """`typical` is the size of each coordinate of x. Coordinates are rounded in proportion to its square root, and
        weights to the inverse, so that a few large coordinates do not drown the others.
        """
        self._balance = typical.clamp_min(typical.max().clamp_min(1e-30) * 1e-6).rsqrt()
        inverse, weights, d_sae = self._balance.reciprocal(), W_enc.T, len(bias)
        rounded = torch.empty(weights.shape, dtype=torch.int8)
        self._steps, self._lengths = weights.new_empty(d_sae), weights.new_empty(d_sae)
        parts = (tensor.split(ROWS) for tensor in (weights, rounded, self._steps, self._lengths))
        for part, whole, steps, lengths in zip(*parts, strict=True):
            balanced = part * inverse
            torch.linalg.vector_norm(balanced, dim=1, out=lengths)
            torch.maximum(balanced.amax(1), -balanced.amin(1), out=steps).clamp_min_(1e-30).div_(WEIGHT_LEVELS)
            whole.copy_(balanced.mul_(steps.reciprocal()[:, None]).round_())
        self._scales, self._bias = self._steps.clone(), bias
        if norms is not None:
            for tensor in (self._steps, self._lengths, self._scales):
                tensor.mul_(norms)
            self._bias = bias * norms
        self._zeros = torch.zeros(d_sae, dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, [ROWS, weights.shape[1]])

    def __call__(self, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_sae"]:
        balanced = x * self._balance
        low, high = balanced.aminmax()
        step = max(high.item(), -low.item(), 1e-30) / LEVELS
        longest = balanced.norm(dim=1).max()
        slack = MARGIN * ((step * self._lengths).square() + (longest * self._steps).square()).div(12).sqrt()
        rounded = balanced.div_(step).round_().add_(LEVELS).to(torch.uint8)
        return _product(rounded, step, self._packed, self._scales, self._zeros, self._bias + slack)


def worthwhile(x: Float[Tensor, "rows d_in"], W_enc: Float[Tensor, "d_in d_sae"]) -> bool:
    """Whether bounds on x @ W_enc cost less than the product itself."""
    plain = x.device.type == "cpu" and x.dtype == W_enc.dtype == torch.float32
    return plain and len(x) >= ROWS and W_enc.numel() >= AT_LEAST and has_product()


def _product(x: Tensor, step: float, packed: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.onednn.qlinear_pointwise(
        x, step, LEVELS, packed, scales, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
    )


@cache
def has_product() -> bool:
    """Whether this machine multiplies 8-bit integers, and adds them up without overflow."""
    try:
        x = torch.full((2, 64), 2 * LEVELS, dtype=torch.uint8)
        packed = torch.ops.onednn.qlinear_prepack(torch.full((8, 64), WEIGHT_LEVELS, dtype=torch.int8), [2, 64])
        ones = torch.ones(8)
        product = _product(x, 1.0, packed, ones, torch.zeros(8, dtype=torch.int64), ones)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool((product == 64 * LEVELS * WEIGHT_LEVELS + 1).all())
