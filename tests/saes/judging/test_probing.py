"""Sparse probing of labels that a user brings."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from saes.architectures.topk import TopK
from saes.judging.probing import logistic, probe_texts, sparse_probing
from saes.sae import SAEConfig
from workbench.errors import SettingError
from workbench.texts import read_labels

N = 400


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_one_latent_tells_the_label():
    labels = ["cat" if i % 2 else "dog" for i in range(N)]
    latents = randn(N, 20).relu()
    latents[:, 7] = torch.arange(N) % 2
    found = sparse_probing(latents, latents @ randn(20, 10, seed=1), labels)
    assert found.sae[1] == 1
    assert found.activation[1] < 0.8
    assert found.activation[5] < found.activation_all + 0.05


def test_chance_is_a_half_however_rare_the_label():
    labels = ["rare" if i % 10 == 0 else "common" for i in range(4000)]
    found = sparse_probing(randn(4000, 8), randn(4000, 4, seed=1), labels)
    assert found.sae[5] == pytest.approx(0.5, abs=0.06)


def test_several_labels_are_each_told_from_the_rest():
    labels = [("red", "green", "blue")[i % 3] for i in range(N)]
    latents = torch.eye(3)[torch.arange(N) % 3]
    assert sparse_probing(latents, latents, labels).sae[1] == 1


def test_logistic_regression_against_scipy():
    z, y = randn(200, 3).double(), randn(200, seed=1) + randn(200, 3)[:, 0] > 0.5
    cost = np.where(y, 100 / y.sum(), 100 / (~y).sum())
    sign = np.where(y, 1, -1)

    def loss(w):
        return (cost * np.logaddexp(0, -sign * (z.numpy() @ w[:3] + w[3]))).sum() + (w[:3] ** 2).sum() / 2

    found = logistic(z, y)
    best = minimize(loss, np.zeros(4), tol=1e-10).x
    assert [*found.weight.tolist(), found.bias] == pytest.approx(best, abs=1e-4)


def test_texts(hooked, tmp_path):
    model = hooked("gpt2")
    texts = [
        f"the {animal} sat on a {place}" for animal in ("cat", "stone") for place in ("mat", "bridge", "stone")
    ] * 3
    labels = ["cat" if "cat" in text else "stone" for text in texts]
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in zip(texts, labels, strict=True)) + "\n")
    assert read_labels(path) == (texts, labels)
    sae = TopK(SAEConfig(32, 64, 8, metadata={"hook_name": "blocks.1.hook_resid_post"})).initialise(torch.zeros(32), 0)
    found = probe_texts(sae, model, texts, labels)
    assert found.activation_all == 1
    assert found.n_examples == 18
    assert torch.is_grad_enabled()


def test_too_few_labels():
    with pytest.raises(SettingError, match="two labels or more"):
        sparse_probing(randn(8, 3), randn(8, 3), ["same"] * 8)
