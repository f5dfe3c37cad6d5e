"""Selectivity against scikit-learn, by hand, and on Tinytown, where neurons are less selective than latents."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from workbench.errors import SettingError
from workbench.selectivity import compare, selectivity


def test_auroc_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(400, 6, generator=generator)
    activations[:, 3] = activations[:, 3].relu().round()  # ties
    labels = torch.rand(400, 3, generator=generator) < torch.tensor([0.1, 0.5, 0.9])
    result = selectivity("units", activations, labels, ("a", "b", "c"))
    for unit in range(6):
        for concept in range(3):
            expected = roc_auc_score(labels[:, concept].numpy(), activations[:, unit].numpy())
            assert result.auroc[unit, concept].item() == pytest.approx(expected, abs=1e-6)


def test_effective_numbers_by_hand():
    """100 tokens of a, 100 of b, 100 of both, 100 of neither: shares of the corpus 150 : 150 : 100."""
    a, b = (torch.tensor([x] * 100) for x in (True, False))
    labels = torch.stack([torch.cat([a, b, a, b]), torch.cat([b, a, a, b])], 1)
    one, all_alike, both, silent = torch.zeros(4, 400)
    one[:100], all_alike[:], both[200:300] = -3.0, 2.0, 1.0
    result = selectivity("units", torch.stack([one, all_alike, both, silent], 1), labels, ("a", "b"))
    p = [150 / 400, 150 / 400, 100 / 400]
    corpus = math.exp(-sum(x * math.log(x) for x in p))
    assert result.effective[:3].tolist() == pytest.approx([1.0, corpus, 2.0], rel=1e-4)
    assert result.corpus == pytest.approx(corpus, rel=1e-4)
    assert result.alive.tolist() == [True, True, True, False]
    assert result.auroc[0, 0].item() == pytest.approx(0.25)  # below zero on half of a, above nothing
    assert result.answers.tolist() == [0, 0, 0, 0]


def test_a_unit_that_is_a_concept_answers_to_it_alone():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(500, 4, generator=generator) < 0.3
    result = selectivity("units", labels[:, [2, 2]] * torch.tensor([1.0, -1.0]), labels, tuple("abcd"))
    assert result.answers.tolist() == [1, 1]
    assert result.best(0) == ("c", 1.0)
    assert result.best(1) == ("c", 0.0)


def test_comparison_is_the_share_of_pairs():
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(300, 3, generator=generator) < 0.4
    first = selectivity("first", torch.randn(300, 9, generator=generator), labels, tuple("abc"))
    second = selectivity("second", torch.randn(300, 7, generator=generator) * labels[:, :1], labels, tuple("abc"))
    result = compare(first, second)
    expected = (first.effective[:, None] > second.effective).float().mean().item()
    assert result.exceeds == pytest.approx(expected)
    assert "first" in str(result)


def test_rare_concepts_are_refused():
    with pytest.raises(SettingError, match="none of 1 concepts is on at least 20 of 50 tokens"):
        selectivity("units", torch.randn(50, 2), torch.zeros(50, 1, dtype=torch.bool), ("a",))
