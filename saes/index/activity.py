"""How often and how strongly each latent fires."""

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from saes.index.exact_sum import ExactSum
from saes.index.firings import Firings
from workbench.scale import BANDS, BINS, bins_of, exponents, widen


class Activity:
    """Running maximum, sum and histogram of each latent's activations, over the tokens that count."""

    def __init__(self, d_sae: int):
        self.n_tokens = 0
        self.maximum: Float32[np.ndarray, " latent"] = np.zeros(d_sae, dtype=np.float32)
        self.sum = ExactSum(d_sae)
        self.histogram: Int64[np.ndarray, "latent bin"] = np.zeros((d_sae, BINS), dtype=np.int64)

    @property
    def exponent(self) -> Int32[np.ndarray, " latent"]:
        """The scale of every latent's bins, see `workbench.scale`."""
        return exponents(self.maximum)

    @property
    def n_active(self) -> Int64[np.ndarray, " latent"]:
        """On how many tokens each latent is above zero."""
        return self.histogram.sum(1)

    @property
    def total(self) -> Float64[np.ndarray, " latent"]:
        """The sum of each latent's activations."""
        return self.sum.value

    @property
    def bands(self) -> Int64[np.ndarray, "latent band"]:
        """The histogram in coarser bins."""
        return self.histogram.reshape(-1, BANDS, BINS // BANDS).sum(2)

    def raise_maximum(self, maximum: Float32[np.ndarray, " latent"]) -> Int32[np.ndarray, " latent"]:
        """Make room for activations up to `maximum`. Returns by how many powers of two each latent's scale grew."""
        before = self.exponent
        self.maximum = np.maximum(self.maximum, maximum)
        steps = self.exponent - before
        widen(self.histogram, steps)
        return steps

    def update(self, firings: Firings) -> None:
        self.n_tokens += int(firings.counted.sum())
        self.sum.update(firings.latent, firings.value)
        bins = bins_of(firings.value, self.exponent[firings.latent], BINS)
        np.add.at(self.histogram.reshape(-1), firings.latent.astype(np.int64) * BINS + bins, 1)

    def merge(self, other: "Activity") -> None:
        """Add one of the same scale."""
        self.n_tokens += other.n_tokens
        self.sum.merge(other.sum)
        self.histogram += other.histogram
