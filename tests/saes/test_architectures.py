"""What every architecture promises, and what each does of its own."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from saes.architectures import ARCHITECTURES
from saes.architectures.topk import TopK
from saes.config import Architecture, TrainConfig
from saes.sae import SAEConfig, Signals, geometric_median, norm_scale
from saes.trainer import Trainer
from tests.saes.synthetic import Dictionary

NO_DEAD = Signals(torch.empty(0, dtype=torch.int64), 1.0)


def config(architecture="topk", **settings):
    defaults = {"site": "blocks.0.hook_resid_post", "out": Path("nowhere"), "d_sae": 40, "k": 4, "aux_coefficient": 1.0}
    return TrainConfig(architecture=architecture, **(defaults | settings))


def make(architecture, d_in=10, d_sae=40, seed=0, x=None):
    k = 4 if architecture == "topk" else None
    x = rows(d_in=d_in) if x is None else x
    return ARCHITECTURES[architecture](SAEConfig(d_in, d_sae, k)).initialise(geometric_median(x), seed)


def rows(n=64, d_in=10, seed=3):
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def test_the_options_name_the_architectures():
    assert set(get_args(Architecture)) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_sae_takes_any_batch_shape(architecture):
    sae, x = make(architecture), rows()
    latents = sae.encode(x)
    assert latents.shape == (64, 40)
    assert (latents >= 0).all()
    torch.testing.assert_close(sae.encode(x.view(2, 32, 10)), latents.view(2, 32, 40))
    torch.testing.assert_close(sae.encode(x[0]), latents[0])
    torch.testing.assert_close(sae(x), latents @ sae.W_dec + sae.b_dec)


def test_topk_keeps_the_k_largest_positive():
    sae, x = make("topk"), rows()
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    kept = pre.argsort(dim=1, descending=True)[:, :4]
    expected = torch.zeros_like(pre).scatter_(1, kept, pre.gather(1, kept).clamp_min(0))
    torch.testing.assert_close(sae.encode(x), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_a_dense_reference(architecture):
    """Written out with (x - b_dec) @ W_enc, dense latents, and autograd alone."""
    sae, x = make(architecture).double(), rows().double()
    with torch.no_grad():
        sae.b_enc.add_(0.1)
        sae.W_dec.mul_(torch.linspace(0.5, 1.5, 40)[:, None])
    step = sae.train_step(x, config(architecture, l1_coefficient=0.7), NO_DEAD)
    names = [name for name, _ in sae.named_parameters()]
    ours = torch.autograd.grad(step.loss, list(sae.parameters()))

    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    if architecture == "topk":
        latents = pre.relu() * (pre >= pre.topk(4).values[:, -1:])
        loss = ((latents @ sae.W_dec + sae.b_dec - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    else:
        latents = pre.relu()
        error = ((latents @ sae.W_dec + sae.b_dec - x) ** 2).sum(1).mean()
        loss = error + 0.7 * (latents * sae.W_dec.norm(dim=1)).sum(1).mean()
    reference = torch.autograd.grad(loss, list(sae.parameters()))

    torch.testing.assert_close(step.loss, loss)
    torch.testing.assert_close(step.l0, (latents > 0).sum(1).double().mean(), check_dtype=False)
    assert torch.equal(step.fired, (latents > 0).any(0))
    for name, grad, expected in zip(names, ours, reference, strict=True):
        assert expected.abs().max() > 1e-4, name
        torch.testing.assert_close(grad, expected, msg=name)


def test_the_auxiliary_loss_reaches_the_encoder_of_dead_latents():
    """Against a dense reference: dead latents model the error of the live ones, which is a constant, without b_dec."""
    sae, x = make("topk").double(), rows().double()
    dead = torch.tensor([3, 7, 8, 20, 21, 33, 39])
    with torch.no_grad():
        sae.b_enc[dead] = -50.0
        error = x - sae(x)
        sae.b_enc[dead] = 0.0
    ours = torch.autograd.grad(sae.auxiliary_loss(x, error, sae.encoder_bias, dead), list(sae.parameters()))

    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc)[:, dead]
    latents = pre.relu() * (pre >= pre.topk(5).values[:, -1:])  # d_in / 2 of the seven
    loss = ((latents @ sae.W_dec[dead] - error) ** 2).sum() / (error**2).sum()
    reference = torch.autograd.grad(loss, list(sae.parameters()))
    for grad, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(grad, expected)
    assert ours[0][:, dead].norm() > 0.01


def test_the_auxiliary_loss_revives_dead_latents():
    """Latents too faint to fire come to life with the auxiliary loss, and stay dead without it."""
    dictionary = Dictionary(n_features=64, d_in=32)

    def dead_after_training(coefficient):
        settings = config(
            d_sae=64, k=3, tokens=256 * 300, batch_size=256, dead_after=1024, aux_coefficient=coefficient, lr=3e-3
        )
        trainer = Trainer(settings, dictionary.rows(4096), {})
        with torch.no_grad():
            trainer.sae.W_enc[:, :32] *= 1e-3  # too faint to be among the top k
        for _ in range(settings.steps):
            trainer.step(dictionary.rows(256))
        return trainer.dead.sum().item()

    assert dead_after_training(0.0) >= 16
    assert dead_after_training(1 / 32) <= 2


def test_topk_steps_keep_decoder_rows_at_unit_norm():
    trainer = Trainer(config(), rows(256), {})
    for seed in range(5):
        trainer.step(rows(64, seed=seed))
        torch.testing.assert_close(trainer.sae.W_dec.norm(dim=1), torch.ones(40))


def test_constrained_gradients_are_tangent_to_the_sphere():
    sae = make("topk")
    sae.train_step(rows(), config(), NO_DEAD).loss.backward()
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() > 1e-4
    sae.constrain_gradient()
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-6


@pytest.mark.parametrize(("architecture", "l1"), [("topk", 0.0), ("standard", 2.0)])
def test_training_recovers_a_known_dictionary(architecture, l1):
    """96 features in 48 dimensions, three active at a time: every one is found, to a cosine above 0.95."""
    dictionary = Dictionary()
    settings = config(architecture, d_sae=128, k=3, l1_coefficient=l1, tokens=256 * 1200, batch_size=256, lr=4e-3)
    trainer = Trainer(settings, dictionary.rows(8192), {})
    assert dictionary.recovered(trainer.sae.W_dec) < 0.2
    for _ in range(settings.steps):
        trainer.step(dictionary.rows(256))
    assert dictionary.recovered(trainer.folded().W_dec) >= 0.97


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_leaves_the_function_unchanged(architecture):
    x, scale = rows() * 7, 0.37
    sae = make(architecture, x=x * scale)
    with torch.no_grad():
        sae.b_enc.add_(0.3)
        if architecture == "standard":  # topk holds its rows at one norm
            sae.W_dec.mul_(torch.linspace(0.5, 2.0, 40)[:, None])
    latents, reconstruction = sae.encode(x * scale), sae(x * scale) / scale
    norms = sae.W_dec.norm(dim=1)
    sae.fold(scale)
    torch.testing.assert_close(sae(x), reconstruction)
    torch.testing.assert_close(sae.encode(x), latents * norms / scale)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))


def test_initialisation():
    x = rows(500)
    sae = make("topk", x=x)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.W_dec, make("topk", x=x).W_dec)
    assert not torch.equal(sae.W_dec, make("topk", x=x, seed=1).W_dec)
    torch.testing.assert_close(sae.b_dec, x.median(0).values, atol=0.3, rtol=0)


def test_the_geometric_median_is_not_moved_by_outliers():
    """Of the corners of a square and a far point, it stays within the square; of a triangle, it is Fermat's point."""
    square = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1], [1000, 1000]])
    assert geometric_median(square).max() <= 1
    angles = torch.tensor([0.0, 2 * torch.pi / 3, 4 * torch.pi / 3])
    equilateral = torch.stack([angles.cos(), angles.sin()], dim=1) + 5
    torch.testing.assert_close(geometric_median(equilateral), torch.tensor([5.0, 5.0]))


def test_the_scale_brings_the_mean_distance_to_sqrt_d():
    x, centre = rows(1000), torch.ones(10)
    assert ((x - centre) * norm_scale(x, centre)).norm(dim=1).mean().item() == pytest.approx(10**0.5, rel=1e-5)


def test_gradients_reach_the_input():
    """Attribution through a spliced SAE needs them."""
    sae, x = make("topk").double(), rows(4).double().requires_grad_()
    assert isinstance(sae, TopK)
    assert torch.autograd.gradcheck(sae, x)
