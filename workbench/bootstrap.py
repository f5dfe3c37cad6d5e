"""Bootstrap intervals of means over prompts, for thousands of means at once.

Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: the percentile interval.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL, RESAMPLES = 0.95, 1000
CELLS = 4096
"""Means that are resampled at once, which bounds the memory."""


def intervals(
    values: Float[Tensor, "*cells example"],
    scale: Float[Tensor, " example"] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
    """Ends of the 95% percentile interval of the mean of `values` over examples, or of that mean over `scale`'s.

    Every cell, and `scale`, see the same resamples, so what the examples have in common cancels. NaN for fewer than
    two examples, which say nothing of the spread.
    """
    n = values.shape[-1]
    flat = values.reshape(-1, n).double()
    if n < 2:
        nothing = torch.full(values.shape[:-1], torch.nan)
        return nothing, nothing.clone()
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(n, (resamples, n), generator=generator)
    weights = (
        torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, picks, torch.ones(picks.shape).double()) / n
    )
    over = torch.ones(resamples).double() if scale is None else weights @ scale.double()
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    ends = [((weights @ part.T) / over[:, None]).quantile(tails, dim=0) for part in flat.split(CELLS)]
    low, high = torch.cat(ends, dim=1).float().reshape(2, *values.shape[:-1])
    return low, high
