"""What an SAE leaves behind: can a concept still be read from its error?"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

RIDGE = 1e-4
"""Ridge penalty, as a share of the mean variance of a dimension of the activations: what is smaller than about a
hundredth of an activation's usual size is not read, or else rounding errors would tell of what caused them."""
RARE = 20


@dataclass(frozen=True)
class Completeness:
    """How well a linear probe reads each concept from the activation x that an SAE reconstructs, from its x_hat, and
    from x - x_hat.

    R^2 = 1 - sum (y - y_hat)^2 / sum (y - mean y)^2 of the least-squares probe of the yes/no label y, which is Fisher's
    linear discriminant: fitted on one half of the tokens, measured on the other, with the same small ridge for all
    three. A complete SAE leaves nothing in the error. A concept on fewer than 20 tokens of either half is left out.
    """

    concepts: tuple[str, ...]
    activation: Float[Tensor, " concept"]
    reconstruction: Float[Tensor, " concept"]
    error: Float[Tensor, " concept"]

    @property
    def remaining(self) -> float:
        """Mean R^2 of the error over that of the activation, negative ones counting 0."""
        return (self.error.clamp_min(0).mean() / self.activation.clamp_min(0).mean()).item()

    def to_dict(self) -> dict[str, object]:
        names = ("activation", "reconstruction", "error")
        columns = [getattr(self, name).tolist() for name in names]
        concepts = {
            concept: dict(zip(names, row, strict=True)) for concept, *row in zip(self.concepts, *columns, strict=True)
        }
        means = {name: sum(column) / max(len(column), 1) for name, column in zip(names, columns, strict=True)}
        return means | {"remaining": self.remaining, "concepts": concepts}

    def rows(self) -> list[tuple[str, str, str]]:
        note = f"R^2 {self.error.mean():.3f}; of the activation {self.activation.mean():.3f}"
        return [
            ("concepts read from the error", f"{self.remaining:.2%}", f"{note}, x_hat {self.reconstruction.mean():.3f}")
        ]


class ErrorProbes:
    """Moments of x, x_hat and x - x_hat with the labels, in 64-bit floats, on each half of the tokens."""

    def __init__(self, d_in: int, concepts: tuple[str, ...]):
        self.concepts = concepts
        self.moments = [[_Moments(d_in, len(concepts)) for _ in range(3)] for _ in range(2)]

    def add(
        self,
        half: int,
        x: Float[Tensor, "row d_in"],
        x_hat: Float[Tensor, "row d_in"],
        labels: Bool[Tensor, "row concept"],
    ) -> None:
        """Count rows: half 0 fits the probes, half 1 measures them."""
        y = labels.cpu().double()
        for moments, z in zip(self.moments[half], (x, x_hat, x - x_hat), strict=True):
            moments.add(z.cpu().double(), y)

    def report(self) -> Completeness:
        fitting, measuring = self.moments
        n = len(fitting[0].zz) - 1
        ridge = RIDGE * fitting[0].variance / n
        common = (fitting[0].labelled >= RARE) & (measuring[0].labelled >= RARE)
        scores = [
            measured.r_squared(fitted.solve(ridge))[common].float()
            for fitted, measured in zip(fitting, measuring, strict=True)
        ]
        return Completeness(tuple(c for c, occurs in zip(self.concepts, common, strict=True) if occurs), *scores)


class _Moments:
    """Sums over rows of products of (1, z) with itself and with the labels. Column 0 is the constant."""

    def __init__(self, d: int, n_labels: int):
        self.zz = torch.zeros(1 + d, 1 + d, dtype=torch.float64)
        self.zy = torch.zeros(1 + d, n_labels, dtype=torch.float64)

    def add(self, z: Float[Tensor, "row d"], y: Float[Tensor, "row label"]) -> None:
        z = torch.cat([z.new_ones(len(z), 1), z], dim=1)
        self.zz += z.T @ z
        self.zy += z.T @ y

    @property
    def n(self) -> Tensor:
        return self.zz[0, 0]

    @property
    def labelled(self) -> Tensor:
        return self.zy[0]

    @property
    def variance(self) -> Tensor:
        """Of all dimensions together."""
        return (self.zz.diagonal()[1:] / self.n - (self.zz[0, 1:] / self.n).square()).sum()

    def solve(self, ridge: Tensor) -> Float[Tensor, "weight label"]:
        """Least squares with `n ridge |w|^2` added; the constant goes free."""
        penalty = torch.full((len(self.zz),), (self.n * ridge).item(), dtype=torch.float64)
        penalty[0] = 0
        return torch.linalg.lstsq(self.zz + penalty.diag(), self.zy).solution

    def r_squared(self, w: Float[Tensor, "weight label"]) -> Float[Tensor, " label"]:
        total = self.labelled - self.labelled.square() / self.n
        residual = self.labelled - 2 * (w * self.zy).sum(0) + (w * (self.zz @ w)).sum(0)
        return 1 - residual / total.clamp_min(1e-12)
