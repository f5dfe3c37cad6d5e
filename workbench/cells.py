"""Results of sweeps: a number for each prompt and each cell, with names for the cells."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench import sites as site_names
from workbench.model import HookedModel
from workbench.prompts import PromptPairs
from workbench.sweep import POSITIONAL, Grid

SHOWN = 10
"""Cells that a result prints."""
PREFIXES = {"layer": "L", "head": "H"}


@dataclass(frozen=True, eq=False)
class Cells(ABC):
    """What came of changing one cell at a time."""

    axes: tuple[str, ...]
    """What the axes of `values` count."""
    labels: tuple[list[str], ...]
    """Names of the places along each axis."""
    values: Float[Tensor, "*cells example"]
    """The measure of each prompt with one cell changed."""

    @cached_property
    def raw(self) -> Float[Tensor, "*cells"]:
        """Mean of the measure over prompts."""
        return self.values.mean(-1)

    @property
    @abstractmethod
    def effect(self) -> Float[Tensor, "*cells"]:
        """What changing the cell does."""

    @property
    @abstractmethod
    def interval(self) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
        """Ends of the 95% bootstrap interval of `effect` over prompts; NaN for a single prompt."""

    def name(self, cell: Sequence[int]) -> str:
        """A cell in words: `L2H3, position 5 ' gave'`."""
        places = [(axis, names[index]) for axis, names, index in zip(self.axes, self.labels, cell, strict=False)]
        part = "".join(PREFIXES[axis] + name for axis, name in places if axis in PREFIXES)
        return ", ".join([part] * bool(part) + [f"{axis} {name}" for axis, name in places if axis not in PREFIXES])

    def ranked(self) -> list[tuple[tuple[int, ...], float]]:
        """(cell, effect), the largest effects of either sign first."""
        effect = self.effect.flatten()
        order = effect.abs().nan_to_num(-1).argsort(descending=True, stable=True)
        places = zip(*(part.tolist() for part in torch.unravel_index(order, self.effect.shape)), strict=True)
        return list(zip(places, effect[order].tolist(), strict=True))

    def table(self) -> list[str]:
        """The largest effects, one line a cell: name, effect, interval, raw mean."""
        best, (low, high) = self.ranked()[:SHOWN], self.interval
        width = max(len(self.name(cell)) for cell, _ in best)
        lines = [f"  {'':<{width}}  effect  95% interval      raw"]
        for cell, effect in best:
            spread = f"[{low[cell]:+.3f}, {high[cell]:+.3f}]" if self.values.shape[-1] > 1 else ""
            lines.append(f"  {self.name(cell):<{width}}  {effect:+.3f}  {spread:<16}  {self.raw[cell]:.3f}")
        hidden = self.effect.numel() - len(best)
        return lines + [f"  and {hidden:,} more"] * bool(hidden)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: every field but the single prompts' values, and the numbers of each cell; none where one is NaN."""
        low, high = self.interval
        whole = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "values"}
        numbers = {"effect": self.effect, "low": low, "high": high, "raw": self.raw}
        return whole | {name: np.where(part.isnan(), None, part).tolist() for name, part in numbers.items()}


def cell_labels(model: HookedModel, grid: Grid, pairs: Sequence[PromptPairs]) -> tuple[list[str], ...]:
    """Names of the places along the axes of a grid: the layer, then `grid.by`. Without pairs positions are numbers."""
    layers = [str(site_names.layer_of(site)) for site in grid.sites]
    names = [
        position_labels(model, pairs) if pairs and axis in POSITIONAL else [str(i) for i in range(size)]
        for axis, size in zip(grid.by, grid.sizes, strict=True)
    ]
    return (layers, *names)


def position_labels(model: HookedModel, pairs: Sequence[PromptPairs]) -> list[str]:
    """Each position with its token in the first prompt; `…` follows where other prompts have another."""
    clean = torch.cat([group.clean for group in pairs])
    strings = model.token_strings(clean[0])
    varies = (clean != clean[0]).any(0).tolist()
    return [
        f"{i} {string!r}{'…' if other else ''}" for i, (string, other) in enumerate(zip(strings, varies, strict=True))
    ]
