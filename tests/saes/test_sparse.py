"""The sparse products against dense autograd."""

import pytest
import torch

from saes.sparse import decode, encode_top_k, to_dense

ROWS, D_IN, D_SAE, K = 37, 12, 50, 5


@pytest.fixture
def weights():
    torch.manual_seed(0)
    shapes = {"W_enc": (D_SAE, D_IN), "bias": (D_SAE,), "W_dec": (D_SAE, D_IN)}
    drawn = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    drawn["W_enc"] = drawn["W_enc"].T
    drawn["bias"] -= 6.0  # so that some of the top k are not positive, and relu matters
    return {name: tensor.requires_grad_() for name, tensor in drawn.items()}


@pytest.fixture
def x():
    return torch.randn(ROWS, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def dense_autoencoder(x, W_enc, bias, W_dec):
    pre = x @ W_enc + bias
    threshold = pre.topk(K, dim=-1).values[:, -1:]
    latents = torch.where(pre >= threshold, pre.relu(), 0.0)
    return latents, latents @ W_dec


def test_codes_equal_the_dense_latents(weights, x):
    latents, reconstruction = dense_autoencoder(x, **weights)
    code = encode_top_k(x, weights["W_enc"], weights["bias"], K)
    assert (code.values == 0).any()
    torch.testing.assert_close(to_dense(code, D_SAE), latents)
    torch.testing.assert_close(decode(code, weights["W_dec"]), reconstruction)


def test_gradients_equal_dense_autograd(weights, x):
    target = torch.randn_like(x)
    leaves = [x.requires_grad_(), *weights.values()]
    dense = torch.autograd.grad((dense_autoencoder(x, **weights)[1] - target).square().sum(), leaves)
    reconstruction = decode(encode_top_k(x, weights["W_enc"], weights["bias"], K), weights["W_dec"])
    sparse = torch.autograd.grad((reconstruction - target).square().sum(), leaves)
    for ours, reference in zip(sparse, dense, strict=True):
        assert reference.abs().max() > 1
        torch.testing.assert_close(ours, reference)


def test_gradients_are_the_same_on_every_run(weights, x):
    def gradients():
        out = decode(encode_top_k(x, weights["W_enc"], weights["bias"], K), weights["W_dec"])
        return torch.autograd.grad(out.square().sum(), list(weights.values()))

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


def test_latents_that_never_fire_get_zero_gradient(weights, x):
    code = encode_top_k(x, weights["W_enc"], weights["bias"], K)
    silent = (to_dense(code, D_SAE) == 0).all(0)
    assert silent.any()
    grads = torch.autograd.grad(decode(code, weights["W_dec"]).square().sum(), list(weights.values()))
    assert grads[0][:, silent].abs().max() == grads[1][silent].abs().max() == grads[2][silent].abs().max() == 0
