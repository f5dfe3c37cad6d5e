"""The two sparse products as Triton kernels, for a GPU where Triton is there. Same results as those in PyTorch.

Each reads a row of weights for every entry of the pattern and keeps nothing else: sums run in 32-bit floats, over the
entries of a row (or latent) in their order, so that a result is the same on every run.
"""

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256
"""Columns that one program holds."""


def weighted_sums(
    values: Float[Tensor, " entries"],
    indices: Int[Tensor, " entries"],
    offsets: Int[Tensor, " rows_plus_1"],
    weights: Float[Tensor, "n d"],
) -> Float[Tensor, "rows d"]:
    """Row i: the sum of values[e] * weights[indices[e]] over the entries e from offsets[i] up to offsets[i + 1]."""
    rows, d = len(offsets) - 1, weights.shape[1]
    weights = weights.contiguous()
    sums = weights.new_empty(rows, d)
    if rows:
        _weighted_sums[rows, triton.cdiv(d, BLOCK)](
            values.contiguous(), indices.contiguous(), offsets, weights, sums, d, BLOCK=BLOCK
        )
    return sums


def dots(
    left: Float[Tensor, "rows d"],
    right: Float[Tensor, "n d"],
    left_rows: Int[Tensor, " entries"],
    right_rows: Int[Tensor, " entries"],
) -> Float[Tensor, " entries"]:
    """Entry e: left[left_rows[e]] · right[right_rows[e]]."""
    left, right, d = left.contiguous(), right.contiguous(), left.shape[1]
    products = left.new_empty(len(left_rows))
    if len(left_rows):
        _dots[(len(left_rows),)](left, right, left_rows.contiguous(), right_rows.contiguous(), products, d, BLOCK=BLOCK)
    return products


@triton.jit
def _weighted_sums(values, indices, offsets, weights, sums, d, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for entry in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
        place = tl.load(indices + entry).to(tl.int64) * d + columns
        total += tl.load(values + entry) * tl.load(weights + place, mask=inside, other=0.0)
    tl.store(sums + row * d + columns, total, mask=inside)


@triton.jit
def _dots(left, right, left_rows, right_rows, products, d, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64)
    a = left + tl.load(left_rows + entry).to(tl.int64) * d
    b = right + tl.load(right_rows + entry).to(tl.int64) * d
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, d, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < d
        total += tl.load(a + columns, mask=inside, other=0.0) * tl.load(b + columns, mask=inside, other=0.0)
    tl.store(products + entry, tl.sum(total))
