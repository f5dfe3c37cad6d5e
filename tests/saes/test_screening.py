"""Bounds from 8-bit products: they hold, they are tight, and what is selected by way of them is the same."""

from pathlib import Path

import pytest
import torch

from saes.config import TrainConfig
from saes.screening import Bounds, has_product
from saes.selection import Above, Largest, batch_top_k, scan
from saes.trainer import Trainer

pytestmark = pytest.mark.skipif(not has_product(), reason="this machine has no exact product of 8-bit integers")
D_IN, D_SAE, K = 256, 4096, 8


def drawn(rows, outlier=1.0):
    """Rows made of a few latents' directions and noise, some coordinates large in all of them; and an encoder."""
    generator = torch.Generator().manual_seed(0)
    W_enc = torch.randn(D_SAE, D_IN, generator=generator).T / D_IN**0.5
    chosen = torch.randint(D_SAE, (rows, K // 2), generator=generator)
    x = 3 * W_enc.T[chosen].sum(1) + 0.3 * torch.randn(rows, D_IN, generator=generator)
    x[:, :4] *= outlier
    return x, W_enc, 0.3 * torch.randn(D_SAE, generator=generator), 0.5 + torch.rand(D_SAE, generator=generator)


@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_bounds_hold_and_are_tight(outlier):
    x, W_enc, bias, norms = drawn(600, outlier)
    exact = (x.double() @ W_enc.double() + bias) * norms
    bounds = Bounds(W_enc, bias, norms, x.square().mean(0).sqrt())(x)
    assert bounds.dtype == torch.float32
    assert (bounds > exact).all()
    slack = bounds - exact
    error = slack - slack.mean(0)
    assert error.std() < 0.05 * exact.std(), "what is left of 8 bits says little"
    assert slack.mean() / error.std() == pytest.approx(7, rel=0.6), "seven standard deviations, of the widest row"


SELECTIONS = {
    "largest": lambda norms: Largest(K),
    "largest by norm": lambda norms: Largest(K, norms),
    "above": lambda norms: Above(1.0 + norms, 1.0),
}


@pytest.mark.parametrize("outlier", [1.0, 300.0], ids=["even coordinates", "some large coordinates"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_the_same_is_selected(name, outlier):
    x, W_enc, bias, norms = drawn(3000, outlier)
    centre, select = x.mean(0), SELECTIONS[name](norms)
    plain, screened = (scan(x, centre, W_enc, bias, select, screened).pattern(D_SAE) for screened in (False, True))
    assert torch.equal(plain.offsets, screened.offsets)
    assert torch.equal(in_order(plain), in_order(screened))


def in_order(pattern):
    """(row, latent) of every entry, as one number, sorted."""
    return (pattern.rows * D_SAE + pattern.indices).sort().values


def test_batch_top_k_is_the_same():
    x, W_enc, bias, norms = drawn(3000)
    (plain, least), (screened, least_screened) = (
        batch_top_k(x, None, W_enc, bias, K, norms, screened=screened) for screened in (False, True)
    )
    assert torch.equal(in_order(plain.pattern), in_order(screened.pattern))
    torch.testing.assert_close(least, least_screened)


def test_rows_that_bounds_leave_undecided_are_made_in_full(monkeypatch):
    """In every twelfth row more latents than there are candidates differ by less than the bounds can tell."""
    x, W_enc, bias, _ = drawn(2400)
    W_enc[:, -100:] = W_enc[:, :1] + 1e-4 * torch.randn(D_IN, 100, generator=torch.Generator().manual_seed(1))
    bias[-100:] = bias[0]
    x[::12] = 3 * W_enc[:, 0]
    made = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda b, rows, *a, **k: made.append(len(rows)) or addmm(b, rows, *a, **k))
    screened = scan(x, None, W_enc, bias, Largest(K), True)
    assert 200 <= sum(made) < 2400 / 8
    plain = scan(x, None, W_enc, bias, Largest(K))
    assert torch.equal(in_order(plain.pattern(D_SAE)), in_order(screened.pattern(D_SAE)))
    torch.testing.assert_close(*(kept.values.view(-1, K).sort().values for kept in (plain, screened)))


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu"])
def test_training_is_repeated_to_the_bit_and_equals_that_without_bounds(architecture):
    x = drawn(1536)[0]

    def trained(screening):
        settings = {"architecture": architecture, "d_sae": D_SAE, "k": K, "screening": screening, "threshold": 1.0}
        config = TrainConfig("somewhere", Path("unused"), batch_size=512, tokens=1536, **settings)
        trainer = Trainer(config, x, {})
        losses = [trainer.step(rows)[1].loss.item() for rows in x.split(512)]
        return losses, trainer.sae.W_dec.detach()

    (losses, weights), (again, weights_again), (plain, _) = trained(True), trained(True), trained(False)
    assert losses == again
    assert torch.equal(weights, weights_again)
    assert losses == pytest.approx(plain, rel=1e-5)
