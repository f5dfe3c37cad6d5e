"""Waves against NumPy's FFT, regressions, and logits made by hand."""

import math

import numpy as np
import pytest
import torch

from workbench.grokking import fourier
from workbench.grokking.model import Adder, all_pairs, as_tokens, hooked
from workbench.grokking.progress import excluded_logits, find_phases, gini, restricted_logits, trig_logits
from workbench.grokking.setting import Setting
from workbench.grokking.training import scores

P = 11
SETTING = Setting(p=P, fraction=0.5, d_model=16, n_heads=2, d_mlp=24)
A, B, C = torch.meshgrid(*[torch.arange(P).double()] * 3, indexing="ij")


def wave(k: int, angle: torch.Tensor) -> torch.Tensor:
    return torch.cos(2 * math.pi * k / P * angle)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.double)


@pytest.mark.parametrize("p", [5, 53, 113])
def test_the_basis_is_orthonormal(p):
    basis = fourier.basis(p)
    torch.testing.assert_close(basis @ basis.T, torch.eye(p, dtype=torch.double), atol=1e-12, rtol=0)


def test_norms_are_those_of_the_fft():
    vectors = random(P, 7)
    transform = np.fft.rfft(vectors.numpy(), axis=0)
    expected = np.sqrt(2 / P * (np.abs(transform[1:]) ** 2).sum(1))
    np.testing.assert_allclose(fourier.frequency_norms(vectors).numpy(), expected, rtol=1e-10)
    spread = (vectors - vectors.mean(0)).square().sum()
    assert fourier.frequency_norms(vectors).square().sum() == pytest.approx(spread.item())  # Parseval


def test_the_spectrum_of_logits_puts_a_wave_where_it_belongs():
    logits = 3 * wave(2, A) * wave(4, B) * (C == 5)
    spectrum = fourier.logit_spectrum(logits)
    assert spectrum.argmax() == 3 * P + 7  # cos of frequency 2, cos of frequency 4
    assert spectrum[3, 7] == pytest.approx(3 * P / 2 * math.sqrt(1 - 1 / P))  # without the mean over the answers
    assert spectrum.square().sum() == pytest.approx(spectrum[3, 7].square().item())
    noise = random(P, P, P)
    centred = noise - noise.mean(-1, keepdim=True)
    assert fourier.logit_spectrum(noise).square().sum() == pytest.approx(centred.square().sum().item())


def test_shares_of_waves_that_were_put_there():
    sum_of_waves = 2 * wave(3, A + B - C) + 1 * wave(5, A + B - C)
    other = wave(2, A - B) * wave(1, C)  # as large, and no function of a + b - c
    logits = sum_of_waves + 2 * other + random(P, P, 1)  # what is the same for all answers does not count
    shares = fourier.explained(logits)
    total = 2**2 / 2 + 1 / 2 + 2**2 / 4
    expected = torch.tensor([0, 0, 2, 0, 0.5], dtype=torch.double) / total
    torch.testing.assert_close(shares, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(fourier.coefficients(logits)[[2, 4]], torch.tensor([2, 1]).double())
    assert fourier.key_frequencies(logits) == (3, 5)
    assert fourier.key_frequencies(other) == ()


def test_an_algorithm_made_by_hand_is_all_restricted_and_nothing_excluded():
    logits = 3 * wave(3, A + B - C) + 2 * wave(5, A + B - C)
    whole = scores(logits, SETTING)
    for part in (restricted_logits, trig_logits):
        assert scores(part(logits, (3, 5)), SETTING).test_loss == pytest.approx(whole.test_loss, abs=1e-12)
    assert scores(excluded_logits(logits, (3, 5)), SETTING).train_loss == pytest.approx(math.log(P))


def test_what_is_learned_otherwise_is_excluded():
    by_heart = 9 * (wave(3, A - B) * wave(2, C) + wave(1, 2 * A + B - C))
    torch.testing.assert_close(excluded_logits(by_heart, (3, 5)), by_heart)
    assert restricted_logits(by_heart, (3, 5)).abs().max() < 1e-12


def test_parts_are_projections_as_computed_wave_by_wave():
    logits, keys = random(P, P, P), (2, 4)
    part = torch.zeros_like(logits)
    for k in keys:
        for shift in (0, math.pi / 2):
            direction = torch.cos(2 * math.pi * k / P * (A + B)[..., 0] - shift)
            direction /= direction.norm()
            part += direction[..., None] * torch.einsum("ab,abc->c", direction, logits)
    torch.testing.assert_close(restricted_logits(logits, keys), part + logits.mean((0, 1)))
    torch.testing.assert_close(excluded_logits(logits, keys), logits - part)
    best = np.linalg.lstsq(
        np.stack([wave(k, A + B - C).flatten().numpy() for k in keys], axis=1),
        logits.flatten().numpy(),
        rcond=None,
    )[0]
    expected = sum(float(x) * wave(k, A + B - C) for x, k in zip(best, keys, strict=True))
    torch.testing.assert_close(trig_logits(logits, keys), expected)


def test_neurons_are_explained_as_a_regression_explains_them():
    adder = Adder(SETTING)
    run = hooked(adder).run(as_tokens(all_pairs(P), P), capture=["blocks.0.mlp.hook_post"])
    activations = run["blocks.0.mlp.hook_post"][:, -1].double().numpy()
    alive = activations.std(0) > 1e-6
    activations -= activations.mean(0)
    a, b = (2 * np.pi / P * all_pairs(P).numpy()).T
    shares = []
    for k in range(1, 6):
        terms = [np.cos(k * a), np.sin(k * a), np.cos(k * b), np.sin(k * b)]
        terms += [f(k * a) * g(k * b) for f in (np.cos, np.sin) for g in (np.cos, np.sin)]
        design = np.stack(terms, axis=1)
        fit = design @ np.linalg.lstsq(design, activations, rcond=None)[0]
        shares.append((fit**2).sum(0) / (activations**2).sum(0).clip(1e-30))
    found = fourier.neurons(adder)
    np.testing.assert_allclose(found.share.numpy()[alive], np.max(shares, axis=0)[alive], rtol=1e-6)
    at_found = np.take_along_axis(np.array(shares), found.frequency.numpy()[None] - 1, axis=0)[0]
    np.testing.assert_allclose(at_found[alive], np.max(shares, axis=0)[alive], rtol=1e-6)  # several may be the best
    assert alive.sum() > 10
    assert found.clustered == pytest.approx((np.max(shares, axis=0)[alive] >= 0.85).sum() / len(alive))


def test_vectors_on_a_circle_are_seen_on_it():
    angles = 2 * math.pi * 4 / P * torch.arange(P).double()
    directions = torch.linalg.qr(random(6, 2)).Q.T
    vectors = 3 * torch.stack([angles.cos(), angles.sin()], dim=1) @ directions + random(6)
    torch.testing.assert_close(
        fourier.plane(vectors, 4), 3 * torch.stack([angles.cos(), angles.sin()], dim=1), atol=1e-9, rtol=0
    )


def test_gini_is_half_the_mean_difference_over_the_mean():
    values = random(9).abs()
    differences = (values[:, None] - values).abs().mean()
    assert gini(values) == pytest.approx((differences / (2 * values.mean())).item())
    assert gini(torch.ones(7)) == pytest.approx(0, abs=1e-7)
    assert gini(torch.tensor([0.0, 0, 0, 1])) == pytest.approx(3 / 4)


def test_phases_of_curves_drawn_by_hand():
    step = torch.arange(0, 800, 100)
    test_loss = torch.tensor([2.0, 10.0, 9.0, 8.0, 6.0, 1.0, 0.005, 0.001])
    excluded = torch.tensor([2.0, 0.5, 0.3, 1.0, 4.0, 6.0, 0.1, 0.1])
    phases = find_phases(step, test_loss, excluded)
    assert vars(phases) == {"memorised": 200, "formed": 400, "cleaned": 600}
    assert str(phases) == "memorisation to step 200; circuit formation to step 400; cleanup to step 600"
    begun = find_phases(step[:4], test_loss[:4], excluded[:4])
    assert vars(begun) == {"memorised": 200, "formed": None, "cleaned": None}
    at_once = find_phases(step[:3], torch.tensor([2.0, 0.5, 0.001]), torch.tensor([2.0, 3.0, 4.0]))
    assert str(at_once) == "memorisation not ended"
