"""The sparse products against dense autograd, for rows of varying length."""

import pytest
import torch

from saes.selection import Above, Largest, batch_top_k, encode

ROWS, D_IN, D_SAE, K = 37, 12, 50, 5


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    """Eight rows a chunk, the last one short."""
    monkeypatch.setattr("saes.selection.CHUNK_ENTRIES", {"cpu": 8 * D_SAE})


@pytest.fixture
def weights():
    torch.manual_seed(0)
    shapes = {"centre": (D_IN,), "W_enc": (D_SAE, D_IN), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN)}
    drawn = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    drawn["W_enc"] = drawn["W_enc"].T
    drawn["b_enc"] -= 6.0  # so that some of the top k are not positive, and relu matters
    return {name: tensor.requires_grad_() for name, tensor in drawn.items()}


@pytest.fixture
def x():
    return torch.randn(ROWS, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


NORMS = torch.linspace(0.5, 2.0, D_SAE, dtype=torch.float64)
THRESHOLDS = torch.linspace(-0.5, 1.0, D_SAE, dtype=torch.float64)


def choose(name, x, centre, W_enc, b_enc):
    if name == "batch top k":
        return batch_top_k(x, centre, W_enc, b_enc, K, NORMS)[0]
    select = {"top k": Largest(K), "top k by norm": Largest(K, NORMS), "above": Above(THRESHOLDS, 1.0)}[name]
    return encode(x, centre, W_enc, b_enc, select)


def chosen(name, pre):
    """The entries that should be kept, by full sorting."""
    if name == "above":
        return pre > THRESHOLDS
    if name == "batch top k":
        scores = pre * NORMS
        return (scores >= scores.flatten().sort(descending=True).values[K * ROWS - 1]) & (scores > 0)
    scores = pre * NORMS if name == "top k by norm" else pre
    return scores >= scores.sort(descending=True).values[:, K - 1 : K]


NAMES = ["top k", "top k by norm", "above", "batch top k"]


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_gradients_equal_dense_autograd(name, weights, x):
    target = torch.randn_like(x)
    W_dec = weights["W_dec"]
    leaves = [x.requires_grad_(), *weights.values()]

    pre = (x - weights["centre"]) @ weights["W_enc"] + weights["b_enc"]
    latents = torch.where(chosen(name, pre), pre, 0.0)
    reconstruction = latents.relu() @ W_dec
    dense = torch.autograd.grad((reconstruction - target).square().sum(), leaves)

    code = choose(name, x, *(weights[key] for key in ("centre", "W_enc", "b_enc")))
    assert 0 < len(code.values) < ROWS * D_SAE
    torch.testing.assert_close(code.to_dense(), latents)
    active = code.with_values(code.values.relu())
    torch.testing.assert_close(active.decode(W_dec), reconstruction)
    assert torch.equal(active.fired(), (latents > 0).any(0))
    sparse = torch.autograd.grad((active.decode(W_dec) - target).square().sum(), leaves)
    for ours, reference in zip(sparse, dense, strict=True):
        assert reference.abs().max() > 1
        torch.testing.assert_close(ours, reference)


def test_rows_may_be_empty(weights, x):
    code = encode(x, None, weights["W_enc"], weights["b_enc"], Above(2.0))
    lengths = code.pattern.offsets.diff()
    assert lengths.min() == 0 < lengths.max()
    out = code.decode(weights["W_dec"])
    assert out[lengths == 0].abs().max() == 0
    torch.testing.assert_close(out, code.to_dense() @ weights["W_dec"])
    silent = encode(x, None, weights["W_enc"], weights["b_enc"], Above(1e9)).decode(weights["W_dec"])
    assert torch.equal(silent, torch.zeros_like(x))


@pytest.mark.parametrize("quiet", [0, 30])
def test_batch_top_k_is_exact_even_where_the_first_rows_mislead(weights, x, quiet):
    """Rows of very different strength; with the first ones strong, too few candidates pass the first floor."""
    x = x.clone()
    x[quiet:] *= 0.01
    with torch.no_grad():
        weights["b_enc"] += 6.0
    code = choose("batch top k", x, *(weights[key] for key in ("centre", "W_enc", "b_enc")))
    pre = (x - weights["centre"]) @ weights["W_enc"] + weights["b_enc"]
    assert len(code.values) == K * ROWS
    torch.testing.assert_close(code.to_dense(), torch.where(chosen("batch top k", pre), pre, 0.0))


def test_too_many_entries_give_a_dense_code(weights, x):
    names = ("centre", "W_enc", "b_enc")
    code = encode(x, *(weights[name] for name in names), Above(-1e9))
    assert code.values.shape == (ROWS, D_SAE)
    torch.testing.assert_close(code.values, (x - weights["centre"]) @ weights["W_enc"] + weights["b_enc"])


def test_latents_of_a_range(weights, x):
    code = choose("above", x, *(weights[key] for key in ("centre", "W_enc", "b_enc")))
    part, dense = code.between(10, 30), code.to_dense()
    torch.testing.assert_close(part.to_dense(), dense[:, 10:30])
    torch.testing.assert_close(part.decode(weights["W_dec"][10:30]), dense[:, 10:30] @ weights["W_dec"][10:30])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_same_on_every_run(name, weights, x):
    def gradients():
        code = choose(name, x, *(weights[key] for key in ("centre", "W_enc", "b_enc")))
        return torch.autograd.grad(code.decode(weights["W_dec"]).square().sum(), list(weights.values()))

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))
