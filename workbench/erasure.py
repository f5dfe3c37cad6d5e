"""Erasure: the least change to activations after which a concept cannot be read off them by any plane.

LEACE, Belrose et al. 2023 (arXiv:2306.03819), theorem 4.3, for yes/no concepts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.edits import Edit, Selection
from workbench.errors import SettingError

RANK = 1e-6
"""Axes along which the activations vary less than this, relative to the most, count as constant."""


@dataclass(frozen=True, eq=False)
class Eraser:
    """x ↦ x − P (x − mean), after which x and the label are uncorrelated."""

    projection: Float[Tensor, "d d"]
    mean: Float[Tensor, " d"]

    def __call__(self, rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        projection, mean = (tensor.to(rows.device, rows.dtype) for tensor in (self.projection, self.mean))
        return rows - (rows - mean) @ projection.T


def leace(rows: Float[Tensor, "row d"], labels: Bool[Tensor, " row"]) -> Eraser:
    """The eraser of a label that disturbs `rows` least (in the squared length of the change).

    Raises `SettingError` unless there are rows of both kinds.
    """
    if labels.all() or not labels.any():
        raise SettingError("erasure needs rows with the concept and rows without it")
    x = rows.double()
    mean = x.mean(0)
    difference = x[labels].mean(0) - x[~labels].mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    values, axes = torch.linalg.eigh(covariance)
    kept = values > RANK * values[-1]
    values, axes = values[kept], axes[:, kept]
    whiten, unwhiten = (axes * values**power @ axes.T for power in (-0.5, 0.5))
    direction = whiten @ difference
    direction = direction / direction.norm()
    projection = unwhiten @ torch.outer(direction, direction) @ whiten
    return Eraser(projection.float(), mean.float())


def erase(site: str, eraser: Eraser, *, positions: Selection = None) -> Edit:
    """An edit that erases a concept while the model runs."""
    return Edit(site, eraser, (), positions, name="erasure")
