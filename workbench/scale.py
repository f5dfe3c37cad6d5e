"""Bins that widen as larger activations arrive, exactly: linear bins whose width is a power of two.

A latent whose largest activation so far is m has its bins over [0, 2^e), e the least with m < 2^e. When a larger
activation raises e, neighbouring bins are added in pairs, which gives the counts that the wider bins would have had
from the start. So one pass makes an exact linear histogram, of which at least half is in use, and two of them merge
exactly.
"""

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

BINS = 64
"""Bins of the activation histogram."""
BANDS = 8
"""Coarser bins, for sampled examples and for thresholds. A band holds BINS / BANDS bins."""
SILENT = -200
"""The exponent of a latent that has never fired: below that of any 32-bit float."""


def exponents(maximum: Float32[np.ndarray, " latent"]) -> Int[np.ndarray, " latent"]:
    """The least e with maximum < 2^e; `SILENT` where the maximum is 0."""
    return np.where(maximum > 0, np.frexp(maximum)[1], SILENT).astype(np.int32)


def bins_of(
    value: Float32[np.ndarray, "*shape"], exponent: Int[np.ndarray, "*#shape"], n: int
) -> Int[np.ndarray, "*shape"]:
    """Which of the `n` bins over [0, 2^exponent) holds each value. Exact: dividing by a power of two rounds nothing."""
    return np.ldexp(value, n.bit_length() - 1 - exponent).astype(np.int64)


def width(exponent: Int[np.ndarray, "*shape"], n: int) -> Float[np.ndarray, "*shape"]:
    """The width of each of the `n` bins over [0, 2^exponent)."""
    return np.ldexp(1.0, exponent - (n.bit_length() - 1))


def widen(counts: Shaped[np.ndarray, "latent n ..."], steps: Int[np.ndarray, " latent"]) -> None:
    """Raise each latent's exponent by its `steps`, in place: a step adds bins in pairs and empties the upper half."""
    n = counts.shape[1]
    steps = steps.clip(max=n.bit_length() - 1)
    while len(rows := np.flatnonzero(steps > 0)):
        old = counts[rows]
        counts[rows, : n // 2] = old[:, 0::2] + old[:, 1::2]
        counts[rows, n // 2 :] = 0
        steps = steps - 1
