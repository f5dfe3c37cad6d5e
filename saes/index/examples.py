"""Where each latent fires most, and a fair sample of where it fires less: kept while the corpus streams by.

The examples of a latent are contexts, each with its largest activation in that context, its peak. Kept are the `N_TOP`
contexts with the largest peaks, and from each band of peaks (`workbench.scale`) `N_PER_BAND` drawn uniformly: those
with the smallest hash of latent, context and seed. Of contexts that read the same over the `WINDOW` tokens up to the
peak, only the first in this order counts, so that a stock phrase does not fill the list.

What is kept depends on the set of contexts only, not on their order, and merging two pools gives the pool of the whole.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64, Integer, UInt64

from saes.index.candidates import Candidates
from saes.index.firings import Firings
from saes.index.ordering import descending, order_within
from workbench.hashing import mix
from workbench.scale import BANDS, bins_of

N_TOP = 20
N_PER_BAND = 4
WINDOW = 8
PENDING = 2**20
"""Activations of new candidates that are gathered before the worse ones are dropped."""

Ranked = list[Int64[np.ndarray, " _"]]
"""Row numbers of the candidates that come first in their slot, of those that come second, and so on."""


class Context(NamedTuple):
    tokens: Int32[np.ndarray, " pos"]
    documents: Int64[np.ndarray, " pos"]
    """The number of the document that each token belongs to; -1 for padding."""


class ExamplePool:
    """The best candidates so far, and new ones waiting to be compared with them."""

    def __init__(self, d_sae: int, seed: int = 0):
        self.salt = mix(np.array([seed], dtype=np.uint64))
        self.parts: list[Candidates] = []
        self.contexts: dict[int, Context] = {}
        self.pending = 0
        self.kept = 0
        self.top_peak: Float32[np.ndarray, " latent"] = np.zeros(d_sae, dtype=np.float32)
        """The peak that a new candidate must reach to be among the top; 0 while there is room."""
        self.band_key = np.full((d_sae, BANDS), np.iinfo(np.uint64).max)
        """The key that a new candidate must be below to be sampled from a band."""

    def widen(self, steps: Int32[np.ndarray, " latent"]) -> None:
        """Bands have moved for latents with steps above 0: their limits no longer hold."""
        self.band_key[steps > 0] = np.iinfo(np.uint64).max

    def update(
        self,
        firings: Firings,
        exponent: Int32[np.ndarray, " latent"],
        context_hash: UInt64[np.ndarray, " context"],
        window_hash: UInt64[np.ndarray, "context pos"],
    ) -> None:
        new = Candidates.of(firings, context_hash, window_hash, self.salt)
        band = bins_of(new.peak, exponent[new.latent], BANDS)
        useful = (new.peak >= self.top_peak[new.latent]) | (new.key <= self.band_key[new.latent, band])
        new = new.take(np.flatnonzero(useful))
        self.parts.append(new)
        self.pending += len(new.value)
        self._remember(firings, context_hash, new.context)
        if self.pending > max(PENDING, self.kept):
            self.compact(exponent)

    def merge(self, other: "ExamplePool") -> None:
        """Add a pool of the same seed; the caller widens both to a common scale."""
        self.parts += other.parts
        self.pending += other.pending + other.kept
        for key, context in other.contexts.items():
            self._store(key, context)

    def compact(self, exponent: Int32[np.ndarray, " latent"]) -> Candidates:
        """Drop what is neither among the top nor sampled, and return the rest."""
        pool = Candidates.concatenate(self.parts)
        top, sampled = _ranked(pool, exponent)
        last = top[-1]
        self.top_peak[pool.latent[last]] = pool.peak[last]
        last = sampled[-1]
        band = bins_of(pool.peak[last], exponent[pool.latent[last]], BANDS)
        self.band_key[pool.latent[last], band] = pool.key[last]
        pool = pool.take(np.unique(np.concatenate([*top, *sampled])))
        self.parts, self.pending, self.kept = [pool], 0, len(pool.value)
        self.contexts = {key: self.contexts[key] for key in np.unique(pool.context).tolist()}
        return pool

    def _remember(
        self,
        firings: Firings,
        context_hash: UInt64[np.ndarray, " context"],
        used: UInt64[np.ndarray, " candidate"],
    ) -> None:
        for row in np.flatnonzero(np.isin(context_hash, used)):
            context = Context(firings.tokens[row].astype(np.int32), firings.documents[row].copy())
            self._store(int(context_hash[row]), context)

    def _store(self, key: int, context: Context) -> None:
        """Of contexts with the same tokens, keep the one whose first document has the lowest number."""
        known = self.contexts.get(key)
        if known is None or context.documents[0] < known.documents[0]:
            self.contexts[key] = context


def _best(
    pool: Candidates, slot: Int64[np.ndarray, " candidate"], cost: UInt64[np.ndarray, " candidate"], n: int
) -> Ranked:
    """The n best candidates of each slot, by cost and then by key; of those with equal windows, only the best."""
    order = order_within(slot, pool.window, cost, pool.key)
    order = order[_starts(slot[order], pool.window[order])]
    order = order[order_within(slot[order], cost[order], pool.key[order])]
    rank = np.arange(len(order)) - np.searchsorted(slot[order], slot[order])
    return [order[rank == place] for place in range(n)]


def _starts(*columns: Integer[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
    """Where a row differs from the one before it in any column."""
    first = np.zeros(len(columns[0]), dtype=bool)
    first[:1] = True
    for column in columns:
        first[1:] |= column[1:] != column[:-1]
    return first


@dataclass(frozen=True)
class Selection:
    """The examples, latent by latent: first the top ones, then the samples from the highest band down."""

    pool: Candidates
    band: Int[np.ndarray, " candidate"]
    """The band that the example was sampled from; -1 for the top examples."""


def select(pool: Candidates, exponent: Int32[np.ndarray, " latent"]) -> Selection:
    """The top examples and the sampled ones of all candidates. A context that is both is a top example only."""
    top, sampled = _ranked(pool, exponent)
    place = np.full((2, len(pool.latent)), -1)
    for which, ranked in enumerate((top, sampled)):
        for rank, rows in enumerate(ranked):
            place[which, rows] = rank
    is_top = place[0] >= 0
    band = np.where(is_top, -1, bins_of(pool.peak, exponent[pool.latent], BANDS))
    order = np.lexsort((np.where(is_top, place[0], place[1]), -band, ~is_top, pool.latent))
    order = order[(place >= 0).any(0)[order]]
    return Selection(pool.take(order), band[order])


def _ranked(pool: Candidates, exponent: Int32[np.ndarray, " latent"]) -> tuple[Ranked, Ranked]:
    """The best of each latent, and the sampled of each latent and band."""
    latent = pool.latent.astype(np.int64)
    slot = latent * BANDS + bins_of(pool.peak, exponent[latent], BANDS)
    return _best(pool, latent, descending(pool.peak), N_TOP), _best(pool, slot, pool.key, N_PER_BAND)
