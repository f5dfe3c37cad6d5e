"""Orders made from one integer are those of a sort by every column."""

import numpy as np
import pytest

from saes.index.ordering import descending, order_within


@pytest.mark.parametrize("n_groups", [1, 3, 70_000])
@pytest.mark.parametrize("spread", [2**64 - 1, 2**40, 3])
def test_rows_are_ordered_as_by_lexsort(n_groups, spread):
    """Keys that differ nowhere, in their trailing bits only, and everywhere."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, n_groups, 5000)
    key = rng.integers(0, spread, 5000, dtype=np.uint64)
    first, second = rng.integers(0, 4, 5000), rng.permutation(5000)
    assert np.array_equal(order_within(group, key, first, second), np.lexsort((second, first, key, group)))


def test_nothing_is_in_order():
    assert len(order_within(np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros(0))) == 0


def test_values_are_ordered_from_the_largest():
    value = np.random.default_rng(0).exponential(size=1000).astype(np.float32)
    value[:10] = 0
    assert np.array_equal(descending(value).argsort(kind="stable"), np.argsort(-value, kind="stable"))
