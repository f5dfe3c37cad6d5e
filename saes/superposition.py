"""The toy model of superposition: n features squeezed through m dimensions.

Source: Elhage et al. 2022, "Toy Models of Superposition" (transformer-circuits.pub/2022/toy_model):

    h = W x,   x_hat = relu(W^T h + b),   loss = mean over inputs of sum_i importance_i (x_i - x_hat_i)^2,

where each x_i is 0 with probability 1 - density, and otherwise uniform on [0, 1]. The paper's S is 1 - density.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import SettingError

FRESH = 64
"""Batches on which trained models are compared; the same for all restarts."""


@dataclass(frozen=True)
class ToyModels:
    """Trained toy models, one for each density and row of importances. A column of W is a feature's direction."""

    W: Float[Tensor, "model hidden feature"]
    b: Float[Tensor, "model feature"]
    density: Float[Tensor, " model"]
    importance: Float[Tensor, "model feature"]
    loss: Float[Tensor, " model"]
    """On fresh inputs."""

    @property
    def norms(self) -> Float[Tensor, "model feature"]:
        """|W_i|: near 1 for a feature that is represented, near 0 for one that is not."""
        return self.W.norm(dim=1)

    @property
    def interference(self) -> Float[Tensor, "model feature"]:
        """sum over j != i of (W_i/|W_i| · W_j)^2: how much the other features write along feature i's direction."""
        return _overlap(self.W) - self.norms.square()

    @property
    def dimensionality(self) -> Float[Tensor, "model feature"]:
        """D_i = |W_i|^2 / sum_j (W_i/|W_i| · W_j)^2: the share of a dimension that a feature has to itself.

        1 for a feature alone, 1/2 in an antipodal pair, 2/5 in a pentagon, 2/3 in a triangle, 3/4 in a tetrahedron; 0
        for a feature that is not represented (norm below 0.05). Source: the paper, "The geometry of
        superposition".
        """
        represented = self.norms > 0.05
        return torch.where(represented, self.norms.square() / _overlap(self.W).clamp_min(1e-12), 0.0)

    @property
    def dimensions_per_feature(self) -> Float[Tensor, " model"]:
        """D* = m / |W|_F^2, m being the hidden dimensions: about m over the number of features represented."""
        return self.W.shape[1] / self.W.square().sum((1, 2))

    def __str__(self) -> str:
        n, m = self.W.shape[2], self.W.shape[1]
        lines = [f"{n} features in {m} dimensions", "  density  represented  dimensions/feature  loss"]
        table = zip(self.density, (self.norms > 0.5).sum(1), self.dimensions_per_feature, self.loss, strict=True)
        return "\n".join(lines + [f"  {p:7.4f}  {k:11d}  {d:18.3f}  {loss:.5f}" for p, k, d, loss in table])


def _overlap(W: Float[Tensor, "model hidden feature"]) -> Float[Tensor, "model feature"]:
    """sum over j of (W_i/|W_i| · W_j)^2."""
    unit = W / W.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (unit.transpose(1, 2) @ W).square().sum(2)


def inputs(
    density: Float[Tensor, " model"], n_features: int, n: int, generator: torch.Generator
) -> Float[Tensor, "model input feature"]:
    """`n` inputs for each density."""
    shape = len(density), n, n_features
    fires = torch.rand(shape, generator=generator) < density[:, None, None]
    return fires * torch.rand(shape, generator=generator)


def train_toy_models(
    n_features: int,
    n_hidden: int,
    density: Float[Tensor, " model"],
    importance: Float[Tensor, "model feature"] | None = None,
    *,
    steps: int = 2000,
    batch_size: int = 512,
    lr: float = 1e-2,
    restarts: int = 1,
    seed: int = 0,
) -> ToyModels:
    """Train one model for each density, all at once; of `restarts` random beginnings, keep the one of least loss.

    `importance` weighs the features, 1 each by default. Adam, its rate falling linearly to 0 over the second half.
    Raises `SettingError` for densities outside (0, 1], or importances of another shape.
    """
    if not ((density > 0) & (density <= 1)).all():
        raise SettingError("densities must be above 0 and at most 1")
    wanted = (len(density), n_features)
    importance = torch.ones(wanted) if importance is None else importance
    if importance.shape != wanted:
        raise SettingError(f"importance must have the shape {list(wanted)}, not {list(importance.shape)}")
    generator = torch.Generator().manual_seed(seed)
    p, weight = density.repeat(restarts), importance.repeat(restarts, 1)
    W = torch.randn(len(p), n_hidden, n_features, generator=generator) / n_hidden**0.5
    W, b = (0.5 * W).requires_grad_(), torch.zeros(len(p), n_features, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        losses(W, b, inputs(p, n_features, batch_size, generator), weight).sum().backward()
        optimizer.step()
    W, b = W.detach(), b.detach()
    loss = torch.zeros(restarts, len(density))
    for _ in range(FRESH):
        x = inputs(density, n_features, batch_size, generator).repeat(restarts, 1, 1)
        loss += losses(W, b, x, weight).view(restarts, -1) / FRESH
    best = loss.argmin(0) * len(density) + torch.arange(len(density))
    return ToyModels(W[best], b[best], density, importance, loss.amin(0))


def losses(
    W: Float[Tensor, "model hidden feature"],
    b: Float[Tensor, "model feature"],
    x: Float[Tensor, "model input feature"],
    importance: Float[Tensor, "model feature"],
) -> Float[Tensor, " model"]:
    """Each model's loss on its inputs."""
    x_hat = torch.baddbmm(b[:, None], x @ W.transpose(1, 2), W).relu()
    return ((x - x_hat).square().mean(1) * importance).sum(1)


@dataclass(frozen=True)
class PhaseDiagram:
    """Two features in one dimension: what becomes of the second, by density and relative importance.

    The second feature is ignored (norm 0), represented alone (norm 1, overlap 0), or stored on top of the first, the
    other way round (norm 1, overlap 1). Overlap is (W_2/|W_2| · W_1)^2. Source: the paper, "Superposition as a phase
    change".
    """

    density: Float[Tensor, " density"]
    importance: Float[Tensor, " importance"]
    """Of the second feature; the first has 1."""
    norm: Float[Tensor, "importance density"]
    overlap: Float[Tensor, "importance density"]


def phase_diagram(
    density: Float[Tensor, " density"],
    importance: Float[Tensor, " importance"],
    *,
    steps: int = 800,
    restarts: int = 6,
    seed: int = 0,
) -> PhaseDiagram:
    """The diagram as training finds it."""
    p, second = density.repeat(len(importance)), importance.repeat_interleave(len(density))
    weight = torch.stack([torch.ones_like(second), second], dim=1)
    found = train_toy_models(2, 1, p, weight, steps=steps, batch_size=256, lr=0.03, restarts=restarts, seed=seed)
    shape = len(importance), len(density)
    return PhaseDiagram(density, importance, found.norms[:, 1].view(shape), found.interference[:, 1].view(shape))


def theoretical_phase_diagram(
    density: Float[Tensor, " density"], importance: Float[Tensor, " importance"]
) -> PhaseDiagram:
    """The diagram of the least of three losses in closed form. With p the density and r the second's importance:

    only the first, W = (1, 0):   r Var,  Var = p/3 - p^2/4, the bias giving the second its mean p/2;
    only the second, W = (0, 1):  Var;
    antipodal, W = (1, -1):       (1 + r) p^2 / 6: only when both fire is each wrong, by the smaller of the two.
    """
    p, r = density.expand(len(importance), -1), importance[:, None]
    variance = p / 3 - p.square() / 4
    loss = torch.stack([r * variance, variance.expand(len(r), -1), (1 + r) * p.square() / 6])
    best = loss.argmin(0)
    return PhaseDiagram(density, importance, (best > 0).float(), (best == 2).float())
