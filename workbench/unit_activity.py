"""How the activations of many units are spread, and where they are highest and lowest: one pass over a corpus.

A unit is a column of any activation: a neuron, a dimension of the residual stream, a latent. Nothing loops over units,
and memory does not grow with the corpus.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from workbench.corpus import TokenBatch
from workbench.extremes import BEFORE, Extremes, ExtremesPool
from workbench.scale import BINS, bins_of, exponents, widen, width

ENTRIES = 2**21
"""Activations that are binned at a time."""


@dataclass(frozen=True)
class UnitActivity:
    """What a pass over a corpus tells of every unit of a site."""

    site: str
    n_tokens: int
    mean: Float[Tensor, " unit"]
    deviation: Float[Tensor, " unit"]
    """Standard deviation over tokens."""
    positive: Float[Tensor, " unit"]
    """Share of tokens on which the unit is above zero."""
    counts: Int[Tensor, "unit bin"]
    """Tokens in each bin. A unit's bins are equally wide; half of them lie below zero."""
    bin_width: Float[Tensor, " unit"]
    highest: Extremes
    lowest: Extremes
    strings: dict[int, str]
    """The text of each token that is in an example."""

    def edges(self, unit: int) -> Float[np.ndarray, " edge"]:
        """The edges of a unit's bins, one more than there are bins."""
        return np.arange(-BINS, BINS + 1) * float(self.bin_width[unit])

    def examples(self, extremes: Extremes, unit: int) -> list["Example"]:
        """The contexts of `extremes`, which are this activity's own, in which a unit reaches furthest."""
        n = int((~extremes.values[unit].isnan()).sum())
        return [self._example(extremes, unit, place) for place in range(n)]

    def _example(self, extremes: Extremes, unit: int, place: int) -> "Example":
        tokens = extremes.tokens[unit, place]
        inside = tokens >= 0
        return Example(
            value=extremes.values[unit, place].item(),
            strings=[self.strings[token] for token in tokens[inside].tolist()],
            activations=extremes.activations[unit, place][inside].tolist(),
            peak=int(inside[:BEFORE].sum()),
        )


@dataclass(frozen=True)
class Example:
    """A stretch of text around a peak."""

    value: float
    strings: list[str]
    activations: list[float]
    peak: int
    """Which of the tokens the peak is."""

    def __str__(self) -> str:
        """The text, its peak in brackets."""
        texts = list(self.strings)
        blank = " " if texts[self.peak].startswith(" ") else ""
        texts[self.peak] = f"{blank}[{texts[self.peak].removeprefix(' ')}]"
        spaced = any(text.startswith(" ") for text in self.strings)  # otherwise tokens are whole words
        return ("" if spaced else " ").join(texts).strip().replace("\n", "↵")


class ActivityGatherer:
    """Feed it every batch once."""

    def __init__(self, site: str, n_units: int, n_examples: int):
        self._site, self._n_tokens = site, 0
        self._sums = torch.zeros(3, n_units, dtype=torch.float64)
        self._histogram = _Histogram(n_units)
        self._pools = [ExtremesPool(n_units, n_examples, sign) for sign in (1, -1)]

    def update(
        self, batch: TokenBatch, values: Float[Tensor, "context pos unit"], counted: Bool[Tensor, "context pos"]
    ) -> None:
        """Tokens that are not counted enter no statistic and are no peak, but are shown beside one."""
        values = values.detach().float().cpu()
        rows = values[counted]
        self._n_tokens += len(rows)
        self._sums += torch.stack([part.sum(0, dtype=torch.float64) for part in (rows, rows.square(), rows > 0)])
        for part in rows.split(max(1, ENTRIES // values.shape[2])):
            self._histogram.update(part.numpy())
        for pool in self._pools:
            pool.update(batch, values, counted)

    def result(self, strings: Callable[[Tensor], list[str]]) -> UnitActivity:
        """`strings` gives the texts of tokens."""
        mean, square, positive = self._sums / self._n_tokens
        highest, lowest = (pool.result() for pool in self._pools)
        used = torch.cat([highest.tokens.flatten(), lowest.tokens.flatten()]).unique()
        used = used[used >= 0]
        return UnitActivity(
            site=self._site,
            n_tokens=self._n_tokens,
            mean=mean.float(),
            deviation=(square - mean.square()).clamp_min(0).sqrt().float(),
            positive=positive.float(),
            counts=torch.from_numpy(self._histogram.counts),
            bin_width=torch.from_numpy(self._histogram.width).float(),
            highest=highest,
            lowest=lowest,
            strings=dict(zip(used.tolist(), strings(used), strict=True)),
        )


class _Histogram:
    """Exact counts in bins on both sides of zero that widen as larger activations arrive; see `workbench.scale`."""

    def __init__(self, n_units: int):
        self._largest: Float32[np.ndarray, " unit"] = np.zeros(n_units, np.float32)
        self._sides: Int64[np.ndarray, "2 unit bin"] = np.zeros((2, n_units, BINS), np.int64)

    def update(self, rows: Float32[np.ndarray, "row unit"]) -> None:
        sizes = np.abs(rows)
        before = exponents(self._largest)
        self._largest = np.maximum(self._largest, sizes.max(0, initial=0))
        exponent = exponents(self._largest)
        for side in self._sides:
            widen(side, exponent - before)
        bins = bins_of(sizes, exponent, BINS)
        unit = np.arange(rows.shape[1])
        cells = ((rows < 0) * rows.shape[1] + unit) * BINS + bins
        self._sides += np.bincount(cells.reshape(-1), minlength=self._sides.size).reshape(self._sides.shape)

    @property
    def counts(self) -> Int64[np.ndarray, "unit bin"]:
        """From the lowest bin to the highest."""
        above, below = self._sides
        return np.concatenate([below[:, ::-1], above], axis=1)

    @property
    def width(self) -> Float[np.ndarray, " unit"]:
        return np.where(self._largest > 0, width(exponents(self._largest), BINS), 0.0)
