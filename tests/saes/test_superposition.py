"""The toy model of superposition, against what is known of it without training it."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from saes.superposition import ToyModels, phase_diagram, theoretical_phase_diagram, train_toy_models
from workbench.errors import SettingError
from workbench.figures import superposition as figures


def of(W):
    """A model with these weights."""
    W = torch.as_tensor(W, dtype=torch.float32)[None]
    n = W.shape[2]
    return ToyModels(W, torch.zeros(1, n), torch.ones(1), torch.ones(1, n), torch.zeros(1))


def polygon(n):
    angle = 2 * torch.pi * torch.arange(n) / n
    return torch.stack([angle.cos(), angle.sin()])


@pytest.mark.parametrize(
    ("W", "expected"),
    [
        (torch.eye(3), 1),
        ([[1.0, -1.0]], 1 / 2),
        (polygon(3), 2 / 3),
        (polygon(5), 2 / 5),
        ([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], 3 / 4),
        ([[1.0, -1, 0, 0], [0, 0, 1, -1]], 1 / 2),
    ],
    ids=["basis", "antipodal", "triangle", "pentagon", "tetrahedron", "two pairs"],
)
def test_dimensionality_of_regular_arrangements(W, expected):
    """The values in the paper's figure; for unit vectors that span evenly they are m/n."""
    assert of(W).dimensionality[0].tolist() == pytest.approx([expected] * of(W).W.shape[2], rel=1e-5)


def test_a_feature_left_out_has_no_dimension():
    model = of([[1.0, 0.0], [0.0, 0.0]])
    assert model.dimensionality[0].tolist() == [1, 0]
    assert model.norms[0].tolist() == [1, 0]
    assert model.dimensions_per_feature.item() == 2


def test_dense_inputs_keep_the_most_important_features():
    """With every feature always on, the best is PCA: the m most important features, each of the rest costing its
    importance times the variance of a uniform variable, 1/12."""
    importance = 0.6 ** torch.arange(6.0)
    model = train_toy_models(6, 2, torch.ones(1), importance[None], steps=800, batch_size=256, restarts=2)
    assert model.norms[0, :2].tolist() == pytest.approx([1, 1], abs=0.05)
    assert model.norms[0, 2:].max() < 0.15
    assert model.loss.item() == pytest.approx(importance[2:].sum().item() / 12, rel=0.03)


def test_five_features_in_a_plane_are_a_pentagon():
    model = train_toy_models(5, 2, torch.tensor([0.03]), steps=600, batch_size=256, restarts=4)
    assert model.dimensionality[0].tolist() == pytest.approx([2 / 5] * 5, abs=0.05)


def test_three_features_in_a_plane_are_a_pair_and_one_alone():
    """By hand, to the order of p^2: when two of a pair fire, both are wrong by the smaller: 2 E min(x, y)^2 = 1/3. In a
    triangle each of six is wrong by min(x, y/2): 6 E min(x, y/2)^2 = 6/16. So the pair is the better."""
    model = train_toy_models(3, 2, torch.tensor([0.03]), steps=600, batch_size=256, restarts=4)
    assert sorted(model.dimensionality[0].tolist()) == pytest.approx([1 / 2, 1 / 2, 1], abs=0.03)


def test_four_features_in_a_plane_are_two_opposite_pairs():
    W = train_toy_models(4, 2, torch.tensor([0.03]), steps=600, batch_size=256, restarts=4).W[0]
    unit = W / W.norm(dim=0)
    cosine = (unit.T @ unit).fill_diagonal_(0)
    assert cosine.amin(1).tolist() == pytest.approx([-1] * 4, abs=0.03)
    assert cosine.amax(1).max() < 0.15


NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def expected_loss(parameters, p, r):
    """The loss of two features in one dimension, by quadrature over each pattern of what fires."""
    w, b = np.array(parameters[:2]), np.array(parameters[2:])
    total = 0.0
    for on in product((0, 1), repeat=2):
        x = np.stack(np.meshgrid(NODES * on[0], NODES * on[1], indexing="ij"), -1)
        x_hat = np.maximum((x @ w)[..., None] * w + b, 0)
        error = ((x - x_hat) ** 2) @ np.array([1, r])
        chance = np.prod([p if fires else 1 - p for fires in on])
        total += chance * WEIGHTS @ error @ WEIGHTS
    return total


def optimum(p, r):
    starts = [(1, 0, 0, p / 2), (0, 1, p / 2, 0), (1, -1, 0, 0), (0.7, 0.7, 0.1, 0.1)]
    found = [minimize(expected_loss, start, (p, r), method="Nelder-Mead", options={"maxiter": 300}) for start in starts]
    return min(found, key=lambda one: one.fun)


@pytest.mark.parametrize(("p", "r"), [(0.05, 1.0), (0.9, 0.3), (0.9, 3.0)])
def test_training_finds_the_optimum(p, r):
    """The norm, overlap and loss of the optimum found by quadrature and Nelder-Mead."""
    best = optimum(p, r)
    model = train_toy_models(
        2, 1, torch.tensor([p]), torch.tensor([[1.0, r]]), steps=800, batch_size=256, lr=0.03, restarts=4
    )
    assert model.W[0, 0].abs().tolist() == pytest.approx(np.abs(best.x[:2]), abs=0.08)
    assert expected_loss([*model.W[0, 0].tolist(), *model.b[0].tolist()], p, r) == pytest.approx(best.fun, rel=0.03)


def test_the_three_losses_in_closed_form():
    p, r = 0.4, 0.7
    variance = p / 3 - p * p / 4
    assert expected_loss((1, 0, 0, p / 2), p, r) == pytest.approx(r * variance)
    assert expected_loss((0, 1, p / 2, 0), p, r) == pytest.approx(variance)
    assert expected_loss((1, -1, 0, 0), p, r) == pytest.approx((1 + r) * p * p / 6, rel=2e-3)


def test_the_theoretical_boundary():
    """For equal importances p^2/3 = p/3 - p^2/4 at p = 4/7."""
    diagram = theoretical_phase_diagram(torch.tensor([4 / 7 - 0.01, 4 / 7 + 0.01]), torch.tensor([0.99, 1.01]))
    assert diagram.overlap.tolist() == [[1, 0], [1, 0]]
    assert diagram.norm.tolist() == [[1, 0], [1, 1]]


def test_the_phases_that_training_finds():
    density, importance = torch.tensor([0.05, 0.9]), torch.tensor([0.2, 5.0])
    found, theory = phase_diagram(density, importance), theoretical_phase_diagram(density, importance)
    assert theory.norm.tolist() == [[1, 0], [1, 1]]
    assert found.norm.flatten().tolist() == pytest.approx(theory.norm.flatten().tolist(), abs=0.15)
    shared = (found.norm * found.overlap).flatten().tolist()
    assert shared == pytest.approx((theory.norm * theory.overlap).flatten().tolist(), abs=0.15)


def test_figures_show_the_numbers():
    W = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)).numpy()
    density = np.array([1.0, 0.1, 0.01], dtype=np.float32)
    drawn = figures.products(W, density)
    assert [trace.z.shape for trace in drawn.data] == [(5, 5)] * 3
    assert drawn.data[1].z == pytest.approx(W[1].T @ W[1])
    arrows = figures.directions(W, density).data[2]
    assert [arrows.x[7], arrows.y[7]] == pytest.approx(W[2, :, 2])
    dots, line = figures.dimensionality(density, W[:, 0].clip(0, 1), density).data
    assert list(dots.x[:5]) == [1] * 5
    assert list(line.x) == pytest.approx([1, 10, 100])
    (plane,) = figures.phases(density, density[:2], [("theory", np.ones((2, 3)), np.eye(2, 3))]).data
    assert plane.z.tolist() == [[-1, 1, 1], [1, -1, 1]]


def test_equal_seeds_train_equal_models():
    one, other = (train_toy_models(3, 2, torch.tensor([0.5]), steps=20, seed=4) for _ in range(2))
    assert torch.equal(one.W, other.W)
    assert "3 features in 2 dimensions" in str(one)


def test_settings_that_make_no_sense():
    with pytest.raises(SettingError, match="above 0 and at most 1"):
        train_toy_models(2, 1, torch.tensor([0.0]))
    with pytest.raises(SettingError, match=r"shape \[1, 2\], not \[1, 3\]"):
        train_toy_models(2, 1, torch.ones(1), torch.ones(1, 3))
