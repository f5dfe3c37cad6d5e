"""Worlds with known features: what is drawn is what was promised, and scores tell a perfect SAE from a poor one."""

import pytest
import torch
from scipy.stats import multivariate_normal, norm

from saes.architectures.standard import Standard
from saes.sae import SAEConfig
from saes.synthetic.benchmark import benchmark_config, run
from saes.synthetic.scores import match, score
from saes.synthetic.world import PRESETS, World, WorldConfig, build, preset, sample
from saes.trainer import Trainer
from workbench.errors import SettingError


def draw(world, n=40_000, seed=0):
    return sample(world, n, torch.Generator().manual_seed(seed))


def built(directions, encoder=None, bias=0.0):
    """A ReLU SAE with these decoder rows, reading with `encoder` (by default the same)."""
    sae = Standard(SAEConfig(directions.shape[1], len(directions), apply_b_dec_to_input=False)).requires_grad_(False)
    sae.W_dec.copy_(directions)
    sae.W_enc.copy_((directions if encoder is None else encoder).T)
    sae.b_enc.fill_(bias)
    return sae


@pytest.mark.parametrize("name", PRESETS)
def test_a_world_fires_as_often_as_it_says(name):
    world = preset(name)
    fires = draw(world).strengths > 0
    frequency = fires.float().mean(0)
    tolerance = 5 * (world.probability / len(fires)).sqrt()
    assert ((frequency - world.probability).abs() < tolerance).all()
    assert fires.sum(1).float().mean() == pytest.approx(world.config.l0, rel=0.02)
    assert world.probability.sum().item() == pytest.approx(world.config.l0, rel=1e-5)


def test_equal_seeds_give_equal_rows():
    world = preset("hierarchical")
    assert torch.equal(world.directions, preset("hierarchical").directions)
    assert torch.equal(draw(world, 100, seed=3).x, draw(world, 100, seed=3).x)
    assert not torch.equal(draw(world, 100, seed=3).x, draw(world, 100, seed=4).x)


def test_rows_are_the_sum_of_their_features():
    world = preset("superposed")
    drawn = draw(world, 10)
    by_hand = torch.stack(
        [
            sum(s * d for s, d in zip(row, world.directions, strict=True) if s) + torch.zeros(64)
            for row in drawn.strengths
        ]
    )
    assert torch.allclose(drawn.x, by_hand, atol=1e-5)
    positive = drawn.strengths[drawn.strengths > 0]
    assert positive.min() >= 0.5
    assert positive.max() <= 1.5


def test_directions():
    assert torch.allclose(preset("tiny").directions @ preset("tiny").directions.T, torch.eye(32), atol=1e-5)
    assert torch.allclose(preset("superposed").directions.norm(dim=1), torch.ones(256))


def test_children_fire_only_with_their_parent_and_alone():
    world = preset("hierarchical")
    fires = (draw(world).strengths > 0).view(-1, 24, 4)
    parent, children = fires[..., 0], fires[..., 1:]
    assert not (children.any(2) & ~parent).any()
    assert children.sum(2).max() == 1
    assert (children.any(2).sum() / parent.sum()).item() == pytest.approx(0.5, abs=0.02)
    assert world.parent[:5].tolist() == [-1, 0, 0, 0, -1]


def test_correlation_within_groups_and_none_between():
    """Two features of a group fire together as often as two correlated Gaussians pass their thresholds."""
    world = preset("correlated")
    fires = (draw(world, 100_000).strengths > 0).double()
    p, rho = world.probability[0].item(), world.config.correlation
    together = fires.T @ fires / len(fires)
    expected = multivariate_normal.cdf([norm.ppf(p)] * 2, cov=[[1, rho], [rho, 1]])
    group = torch.block_diag(*[torch.ones(8, 8)] * 16).bool()
    assert together[group & ~torch.eye(128, dtype=torch.bool)].mean().item() == pytest.approx(expected, rel=0.05)
    assert together[~group].mean().item() == pytest.approx(p * p, rel=0.05)
    assert expected > 5 * p * p


def test_the_dictionary_itself_is_perfect():
    """Orthogonal directions, read with a threshold that no noise passes."""
    world = preset("tiny")
    scores = score(built(world.directions, bias=-1e-4), world)
    assert (scores.recovered, scores.f1, scores.uniqueness, scores.dead) == (1, 1, 1, 0)
    assert scores.mcc == pytest.approx(1)
    assert scores.l0 == scores.true_l0
    assert scores.fvu == pytest.approx(0, abs=1e-6)


def test_ten_latents_cannot_score_like_thirty_two():
    world = preset("tiny")
    scores = score(built(world.directions[:10], bias=-1e-4), world)
    assert scores.recovered == pytest.approx(10 / 32)
    assert scores.mcc == pytest.approx(10 / 32)
    assert scores.f1 == pytest.approx(10 / 32)
    assert (scores.matched >= 0).sum() == 10


def test_the_order_of_latents_is_indifferent():
    world = preset("superposed")
    directions = world.directions + 0.1 * torch.randn(256, 64, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(256, generator=torch.Generator().manual_seed(2))
    one, other = (score(built(rows, bias=-0.3), world, 5000) for rows in (directions, directions[order]))
    assert one.to_dict() == pytest.approx(other.to_dict(), rel=1e-5)
    assert torch.equal(order[other.matched], one.matched)
    assert 0 < one.f1 < 1


def hand_made():
    """Three features along the axes, each firing in a third of rows."""
    return World(WorldConfig(3, 3, 1), torch.eye(3), torch.full((3,), 1 / 3), torch.full((3,), -1))


def test_scores_by_hand():
    """Latents: feature 0; one between 0 and 1 (fires for both); minus feature 2 (never fires)."""
    decoder = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, -1]])
    scores = score(built(decoder, bias=-1e-4), world := hand_made(), 4096)
    fires = draw(world, 4096).strengths > 0
    assert scores.feature_cosine.tolist() == pytest.approx([1, 0.8, 0])
    assert scores.matched.tolist() == [0, 1, -1]
    assert scores.recovered == pytest.approx(1 / 3)
    assert scores.mcc == pytest.approx(1.8 / 3)
    assert scores.dead == pytest.approx(1 / 3)
    assert scores.uniqueness == pytest.approx(2 / 3)
    either = fires[:, 0] | fires[:, 1]
    by_hand = 2 * fires[:, 1].sum() / (either.sum() + fires[:, 1].sum())
    assert scores.feature_f1[0] == 1
    assert scores.feature_f1[1].item() == pytest.approx(by_hand.item())
    assert scores.feature_f1[2] == 0


def test_the_matching_is_the_best_one():
    """Greedy would pair latent 0 with feature 0 (0.9) and leave 0.1; the best sum is 0.8 + 0.8."""
    cosine = torch.tensor([[0.9, 0.8], [0.8, 0.1]])
    rest = torch.diag((1 - cosine.square().sum(1).clamp_max(1)).clamp_min(0).sqrt())
    matched, found = match(torch.cat([cosine, rest], 1), torch.eye(2, 4))
    assert matched.tolist() == [1, 0]
    assert found.shape == (2, 2)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "matching_pursuit"])
@pytest.mark.parametrize("name", PRESETS)
def test_no_sae_begins_at_the_answer(name, architecture):
    """Not even one whose seed is the world's: the first weights and the directions are drawn in the same way."""
    world = preset(name)
    settings = benchmark_config(name, architecture=architecture, seed=world.config.seed)
    trainer = Trainer(settings, draw(world, 1000).x, {})
    _, cosine = match(trainer.sae.W_dec, world.directions)
    assert cosine.max() < 0.8


def test_training_on_a_world_finds_it():
    scores = run("tiny", tokens=60_000, batch_size=256, lr=5e-3, dead_after=10_000, n_rows=4096)
    assert scores.recovered > 0.9
    assert scores.f1 > 0.7


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"n_features": 10, "children": 2}, "multiple of 1 [+] children"),
        ({"n_features": 10, "group": 4}, "multiple of group"),
        ({"n_features": 12, "group": 4, "children": 2}, "either groups or children"),
        ({"n_features": 12, "correlation": 1.0}, "correlation must be"),
        ({"n_features": 4, "l0": 3.0}, "too much"),
    ],
)
def test_worlds_that_cannot_be(settings, complaint):
    with pytest.raises(SettingError, match=complaint):
        build(WorldConfig(**({"d_in": 8, "l0": 1.0} | settings)))


def test_wrong_names_and_widths():
    with pytest.raises(SettingError, match="there are tiny, superposed"):
        preset("huge")
    with pytest.raises(SettingError, match="takes 3 dimensions, and this world has 32"):
        score(built(torch.eye(3)), preset("tiny"))


@pytest.mark.slow
def test_matryoshka_finds_parents_that_batchtopk_lets_their_children_absorb():
    """Bussmann et al. 2025, arXiv:2503.17547: in the hierarchical world a child never fires without its parent."""
    flat, nested = (
        run("hierarchical", architecture=architecture, tokens=250_000) for architecture in ("batchtopk", "matryoshka")
    )
    assert nested.recovered > flat.recovered + 0.1
