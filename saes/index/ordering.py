"""Sorting rows by a group and then by a key, exactly and at the speed of sorting one integer."""

import numpy as np
from jaxtyping import Float32, Int64, Integer, UInt64


def order_within(
    group: Integer[np.ndarray, " row"], key: UInt64[np.ndarray, " row"], *ties: np.ndarray
) -> Int64[np.ndarray, " row"]:
    """As `np.lexsort((*reversed(ties), key, group))`, the groups being 0, 1, 2 and so on.

    Sorted is by the group and the leading bits of the key, in one integer; only rows that tie in those are compared in
    full.
    """
    bits = np.uint64(int(group.max(initial=0)).bit_length())
    packed = key >> bits
    if bits:
        packed |= group.astype(np.uint64) << np.uint64(64 - bits)
    order = np.argsort(packed)
    packed = packed[order]
    tied = np.zeros(len(order) + 1, dtype=bool)
    tied[1:-1] = packed[1:] == packed[:-1]
    rows = np.flatnonzero(tied[1:] | tied[:-1])
    among = order[rows]
    order[rows] = among[np.lexsort((*(tie[among] for tie in reversed(ties)), key[among], packed[rows]))]
    return order


def descending(value: Float32[np.ndarray, " row"]) -> UInt64[np.ndarray, " row"]:
    """A key that sorts values of at least 0 from the largest to the smallest, in its leading bits."""
    return ~(value.view(np.uint32).astype(np.uint64) << np.uint64(32))
