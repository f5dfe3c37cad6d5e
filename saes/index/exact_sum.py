"""Sums of 32-bit floats without rounding, so that no order of the corpus and no split of it changes a digit.

A float is an integer of 24 bits times a power of two. Integers are added as integers, those of neighbouring powers of
two together: a superaccumulator (Kulisch), cut into `PARTS` words of 64 bits. It overflows after 2^31 summands.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

LOWEST = -152
"""A multiple of `SPAN` below the exponent of every 32-bit float."""
SPAN = 8
"""Powers of two that share a word."""
PARTS = (128 - LOWEST) // SPAN + 1


class ExactSum:
    """One sum for each latent."""

    def __init__(self, d_sae: int):
        self.words: Int64[np.ndarray, "latent word"] = np.zeros((d_sae, PARTS), dtype=np.int64)

    @property
    def value(self) -> Float64[np.ndarray, " latent"]:
        """The sums, rounded to 64-bit floats at the very end."""
        return np.ldexp(self.words.astype(np.float64), np.arange(PARTS) * SPAN + LOWEST - 24).sum(1)

    def update(self, latent: Int32[np.ndarray, " entry"], value: Float32[np.ndarray, " entry"]) -> None:
        mantissa, exponent = np.frexp(value)
        word, shift = np.divmod(exponent.astype(np.int64) - LOWEST, SPAN)
        summand = np.ldexp(mantissa, 24).astype(np.int64) << shift
        np.add.at(self.words.reshape(-1), latent.astype(np.int64) * PARTS + word, summand)

    def merge(self, other: "ExactSum") -> None:
        self.words += other.words
