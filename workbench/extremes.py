"""The contexts in which each of many units reaches furthest up, or down, kept while a corpus streams by."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from workbench.corpus import TokenBatch
from workbench.hashing import hash_windows

BEFORE, AFTER = 24, 8
"""Positions kept before and after a peak."""
ALIKE = 8
"""Of contexts that read the same over so many tokens up to the peak, only the one that reaches furthest counts."""


@dataclass(frozen=True)
class Extremes:
    """The contexts in which each unit reaches furthest, one peak a context, the furthest first."""

    values: Float[Tensor, "unit place"]
    """The activation at the peak; NaN where there were fewer contexts."""
    tokens: Int[Tensor, "unit place window"]
    """The tokens around the peak, which is in column `BEFORE`; -1 outside the context, for padding, and no peak."""
    activations: Float[Tensor, "unit place window"]
    """The unit's activation at each of those tokens."""

    @property
    def following(self) -> Int[Tensor, "unit place"]:
        """The token that comes after each peak; -1 if there is none."""
        return self.tokens[..., BEFORE + 1]


class _Peaks(NamedTuple):
    height: Float[Tensor, "row unit"]
    reading: Int64[Tensor, "row unit"]
    """A hash of what is read up to the peak."""
    tokens: Int64[Tensor, "row unit window"]
    activations: Float[Tensor, "row unit window"]


class ExtremesPool:
    """The `n` furthest contexts of each unit so far: up for `sign` 1, down for -1."""

    def __init__(self, n_units: int, n: int, sign: int):
        self._n, self._sign = n, sign
        window = BEFORE + 1 + AFTER
        self._kept = _Peaks(
            torch.full((n, n_units), -torch.inf),
            torch.zeros(n, n_units, dtype=torch.int64),
            torch.full((n, n_units, window), -1),
            torch.zeros(n, n_units, window),
        )

    def update(
        self, batch: TokenBatch, values: Float[Tensor, "context pos unit"], counted: Bool[Tensor, "context pos"]
    ) -> None:
        """Tokens that are not counted are no peak."""
        height, position = (self._sign * values).masked_fill(~counted[..., None], -torch.inf).max(1)
        hashes = torch.from_numpy(hash_windows(batch.tokens.numpy(), ALIKE).view("int64"))
        heights = torch.cat([self._kept.height, height])
        readings = torch.cat([self._kept.reading, hashes.gather(1, position)])
        chosen = _best(heights, readings, self._n)
        old, new = chosen < self._n, (chosen - self._n).clamp_min(0)
        around = position.gather(0, new)[..., None] + torch.arange(-BEFORE, AFTER + 1)
        inside = (around >= 0) & (around < counted.shape[1])
        around, context = around.clamp(0, counted.shape[1] - 1), new[..., None]
        shown = torch.where(batch.mask(), batch.tokens, -1)[context, around].where(inside, -1)
        traces = values[context, around, torch.arange(values.shape[2])[:, None]].where(inside, 0.0)
        kept = chosen.clamp_max(self._n - 1)[..., None].expand_as(shown)
        self._kept = _Peaks(
            heights.gather(0, chosen),
            readings.gather(0, chosen),
            torch.where(old[..., None], self._kept.tokens.gather(0, kept), shown),
            torch.where(old[..., None], self._kept.activations.gather(0, kept), traces),
        )

    def result(self) -> Extremes:
        found = self._kept.height > -torch.inf
        values = torch.where(found, self._sign * self._kept.height, torch.nan)
        tokens = torch.where(found[..., None], self._kept.tokens, -1)
        return Extremes(values.T, tokens.transpose(0, 1), self._kept.activations.transpose(0, 1))


def _best(
    heights: Float[Tensor, "row unit"], readings: Int64[Tensor, "row unit"], n: int
) -> Int64[Tensor, "kept unit"]:
    """The rows of the `n` greatest heights of each unit, of equal readings only the greatest; equals in their order."""
    heights, order = heights.sort(dim=0, descending=True, stable=True)
    readings = readings.gather(0, order)
    earlier = torch.ones(len(order), len(order), dtype=torch.bool).tril(-1)[..., None]
    repeated = ((readings[:, None] == readings) & earlier).any(1)
    first = heights.masked_fill(repeated, -torch.inf).sort(dim=0, descending=True, stable=True).indices[:n]
    return order.gather(0, first)
