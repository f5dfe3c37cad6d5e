"""Quantiles of each latent's activations: exact while a latent has fired at most `N_VALUES` times, else of a sample.

The sample is uniform: the activations whose hash of latent, context and position is smallest (see
`workbench.hashing`), so that it depends on the set of contexts only and parts merge exactly.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64, UInt64

from saes.index.firings import Firings
from saes.index.ordering import descending, order_within
from workbench.hashing import mix

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
N_VALUES = 128
PENDING = 2**20
"""New activations that are gathered before those with larger keys are dropped."""


@dataclass(frozen=True)
class Values:
    """Activations, each with the latent it is of."""

    latent: Int32[np.ndarray, " entry"]
    key: UInt64[np.ndarray, " entry"]
    value: Float32[np.ndarray, " entry"]

    @staticmethod
    def concatenate(parts: list["Values"]) -> "Values":
        none = Values(np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros(0, np.float32))
        rows = (vars(part).values() for part in (none, *parts))
        return Values(*(np.concatenate(columns) for columns in zip(*rows, strict=True)))

    def take(self, rows: np.ndarray) -> "Values":
        return Values(self.latent[rows], self.key[rows], self.value[rows])

    def lowest(self, n: int) -> tuple["Values", Int64[np.ndarray, " kept"]]:
        """The `n` entries of each latent with the smallest keys, sorted by latent and key, and their ranks."""
        ordered = self.take(order_within(self.latent, self.key, self.value))
        rank = np.arange(len(ordered.latent)) - np.searchsorted(ordered.latent, ordered.latent)
        keep = rank < n
        return ordered.take(keep), rank[keep]


class ValueSample:
    """The activations with the smallest keys so far, and new ones waiting to be compared with them."""

    def __init__(self, d_sae: int):
        self.parts: list[Values] = []
        self.pending = 0
        self.kept = 0
        self.limit = np.full(d_sae, np.iinfo(np.uint64).max)
        """The key that a new activation must not exceed."""

    def update(self, firings: Firings, context_hash: UInt64[np.ndarray, " context"]) -> None:
        context, position = np.divmod(firings.token, firings.tokens.shape[1])
        token = mix(context_hash[context] + position.astype(np.uint64))
        key = mix(token ^ mix(firings.latent.astype(np.uint64)))
        useful = key <= self.limit[firings.latent]
        self.parts.append(Values(firings.latent, key, firings.value).take(useful))
        self.pending += int(useful.sum())
        if self.pending > max(PENDING, self.kept):
            self.compact()

    def merge(self, other: "ValueSample") -> None:
        self.parts += other.parts
        self.pending += other.pending + other.kept

    def compact(self) -> Values:
        """Drop what is not among the smallest, and return the rest, sorted by latent."""
        kept, rank = Values.concatenate(self.parts).lowest(N_VALUES)
        full = rank == N_VALUES - 1
        self.limit[kept.latent[full]] = kept.key[full]
        self.parts, self.pending, self.kept = [kept], 0, len(kept.key)
        return kept


def quantiles(
    values: Values, start: int, stop: int
) -> tuple[Float[np.ndarray, "latent share"], Int[np.ndarray, " latent"]]:
    """For the latents from `start` to before `stop`: quantiles at `SHARES` of their kept values, and how many are kept.

    With linear interpolation, as `numpy.quantile`. NaN for a latent without values.
    """
    kept, _ = values.lowest(N_VALUES)
    kept = kept.take(order_within(kept.latent, ~descending(kept.value)))
    first, last = (np.searchsorted(kept.latent, np.arange(start, stop), side) for side in ("left", "right"))
    n = last - first
    found = np.full((stop - start, len(SHARES)), np.nan)
    alive = n > 0
    place = (n[alive, None] - 1) * np.array(SHARES)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, n[alive, None] - 1)
    below, above = (kept.value[first[alive, None] + at].astype(np.float64) for at in (low, high))
    found[alive] = below + (above - below) * (place - low)
    return found, n
