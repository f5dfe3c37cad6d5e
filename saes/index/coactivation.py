"""Which latents fire together, over all pairs.

A table of all pairs does not fit in memory for wide SAEs, and one of the pairs in a mini-batch depends on its size.
Here the active latents of tokens are kept, and pairs are counted from them at the end, some rows of the table at a
time. While the pairs (the sum over tokens of the squared number of active latents) stay within a budget, every token is
kept and the counts are exact; beyond it, the tokens whose hash is below a threshold that halves as need be: a uniform
sample, the same in whatever order or parts the corpus is read.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, UInt64
from scipy.sparse import csr_array

from saes.index.firings import Firings
from workbench.hashing import mix

PAIR_BUDGET = 2**29
"""Two million tokens with 16 active latents each, or 130,000 with 64; some ten seconds of counting on one core."""
MOST_PARTS = 256
"""Batches whose samples lie apart."""
TABLE_ENTRIES = 2**22
"""Cells of the table of pairs that are held at a time."""


class Sample(NamedTuple):
    """The active latents of some tokens."""

    key: UInt64[np.ndarray, " token"]
    n_active: Int32[np.ndarray, " token"]
    latent: Int32[np.ndarray, " entry"]
    """The active latents of the first token, then those of the second, and so on."""

    def below(self, threshold: int) -> "Sample":
        keep = self.key < np.uint64(threshold)
        return Sample(self.key[keep], self.n_active[keep], self.latent[keep.repeat(self.n_active)])


@dataclass(frozen=True)
class Partners:
    """For each latent, those it fires with most, by phi; a latent with fewer has fewer rows."""

    n_tokens: int
    """How many tokens were counted."""
    latent: Int[np.ndarray, " row"]
    other: Int[np.ndarray, " row"]
    together: Int[np.ndarray, " row"]
    """Counted tokens on which both fire."""
    phi: Float[np.ndarray, " row"]
    """Pearson's correlation of the two yes/no variables "fires"; only pairs above 0 are listed."""
    jaccard: Float[np.ndarray, " row"]
    """Tokens on which both fire / tokens on which either does."""


class CoActivation:
    """A sample of tokens with their active latents, within a budget of pairs."""

    def __init__(self, d_sae: int):
        self.d_sae = d_sae
        self.halvings = 0
        self.pairs = 0
        self.parts: list[Sample] = []

    @property
    def threshold(self) -> int:
        return 2 ** (64 - self.halvings) - 1

    def update(self, firings: Firings, context_hash: UInt64[np.ndarray, " context"]) -> None:
        positions = np.arange(firings.tokens.shape[1], dtype=np.uint64)
        key = mix(context_hash[:, None] + positions[None])[firings.counted]
        n_active = np.bincount(firings.token, minlength=firings.counted.size)[firings.counted.flatten()]
        self._add(Sample(key, n_active.astype(np.int32), firings.latent))

    def merge(self, other: "CoActivation") -> None:
        self.halvings = max(self.halvings, other.halvings)
        self._add(*other.parts, *self._take())

    def _take(self) -> list[Sample]:
        parts, self.parts, self.pairs = self.parts, [], 0
        return parts

    def _add(self, *samples: Sample) -> None:
        for sample in (sample.below(self.threshold) for sample in samples):
            self.parts.append(sample)
            self.pairs += _pairs(sample)
        if len(self.parts) > MOST_PARTS:
            self.parts = [self.whole()]
        while self.pairs > PAIR_BUDGET:
            self.halvings += 1
            self.parts = [sample.below(self.threshold) for sample in self.parts]
            self.pairs = sum(map(_pairs, self.parts))

    def whole(self) -> Sample:
        """All that is kept, as one sample."""
        none = Sample(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32))
        return Sample(*(np.concatenate(columns) for columns in zip(none, *self.parts, strict=True)))

    def partners(self, n: int) -> Partners:
        """The `n` partners with the largest phi of each latent."""
        _, n_active, latent = self.whole()
        n_active = np.append(0, n_active.astype(np.int64))
        ones = np.ones(len(latent), np.int32)
        n_tokens = len(n_active) - 1
        active = csr_array((ones, latent, n_active.cumsum()), shape=(n_tokens, self.d_sae))
        transposed = active.T.tocsr()
        fired = np.diff(transposed.indptr)
        step = max(1, TABLE_ENTRIES // self.d_sae)
        blocks = [
            _best(transposed[start : start + step] @ active, start, fired, n_tokens, n)
            for start in range(0, self.d_sae, step)
        ]
        return Partners(n_tokens, *(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _pairs(sample: Sample) -> int:
    return int((sample.n_active.astype(np.int64) ** 2).sum())


def _best(
    together: csr_array, first: int, fired: Int[np.ndarray, " latent"], n_tokens: int, n: int
) -> tuple[np.ndarray, ...]:
    """The columns of `Partners` for the latents from `first` on, whose counts with every latent are given."""
    counts = together.toarray()
    spread = np.sqrt(fired * (n_tokens - fired.astype(np.float64)))
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    rows = slice(first, first + len(counts))
    phi = counts * float(n_tokens)
    phi -= np.multiply.outer(fired[rows].astype(np.float64), fired)
    phi *= np.multiply.outer(scale[rows], scale)
    np.fill_diagonal(phi[:, first:], 0)
    top = torch.from_numpy(phi).topk(min(n, phi.shape[1]))
    row, place = np.nonzero(top.values.numpy() > 0)
    latent, other = row + first, top.indices.numpy()[row, place]
    both = counts[row, other]
    return latent, other, both, top.values.numpy()[row, place], both / (fired[latent] + fired[other] - both)
