"""What is said of decoders alone: structure, and twins between trainings."""

import pytest
import torch

from saes.judging.stability import stability, twins
from saes.judging.structure import mean_max_cosine, meta_explained
from workbench.errors import SettingError


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_mean_max_cosine_by_hand():
    """Nearest others: 0.6 (row 1), 0.8 (row 2), 0.8 (row 1), and whatever the length of a row."""
    rows = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1]])
    assert mean_max_cosine(rows) == pytest.approx((0.6 + 0.8 + 0.8) / 3)
    assert mean_max_cosine(rows * torch.tensor([[3.0], [0.1], [7]])) == pytest.approx((0.6 + 0.8 + 0.8) / 3)
    assert mean_max_cosine(torch.eye(5)) == 0


def test_a_decoder_of_compounds_has_meta_structure():
    """Sums of 2 of 16 parts can be told by a dictionary of 32 with 4 active; random directions cannot."""
    parts = torch.eye(48)[:16]
    pairs = torch.rand(128, 16, generator=torch.Generator().manual_seed(1)).topk(2, dim=1).indices
    compound, random = (meta_explained(rows, steps=200) for rows in (parts[pairs].sum(1), randn(128, 48)))
    assert compound > 0.8
    assert random < 0.7


def test_the_same_latents_in_another_order_and_length():
    W_dec = randn(200, 32)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    found = stability(W_dec, [2 * W_dec[order], W_dec])
    assert (found.twins, found.others) == (1, 2)
    assert found.mean_cosine == pytest.approx(1)


def test_random_latents_have_no_twins():
    assert stability(randn(200, 32), [randn(300, 32, seed=1)]).twins == 0


def test_half_the_latents_come_again():
    W_dec, other = randn(100, 32), randn(100, 32, seed=1)
    other[:50] = W_dec[50:]
    assert stability(W_dec, [other]).twins == 0.5
    assert stability(W_dec, [other, W_dec]).twins == 0.75


def test_twins_are_one_to_one():
    """Two latents near one of the other SAE: only the nearer is its twin. The opposite of a direction is no twin."""
    W_dec = torch.tensor([[1.0, 0.0, 0.0], [1, 0.1, 0], [0, 0, 1]])
    found, cosine = twins(W_dec, torch.tensor([[1.0, 0.09, 0.0], [0, 0, -1]]))
    assert found.tolist() == [False, True, False]
    assert cosine[:2].min() > 0.99
    assert cosine[2] == 0


def test_what_cannot_be_compared():
    with pytest.raises(SettingError, match="at least one other"):
        stability(torch.eye(3), [])
    with pytest.raises(SettingError, match="3 and 4 dimensions"):
        stability(torch.eye(3), [torch.eye(4)])
