"""Sparse codes, and their matrix products: the cost is that of the latents which fire, not of all d_sae.

Decoding, its two backward products and the encoder's weight gradient cost 4·d_in·d_sae multiply-adds a row when dense,
and 4·d_in·L0 from values and indices. Only the encoder's forward product must stay dense, since what fires is not
known before it; `saes.selection` makes it chunk by chunk and keeps the entries that matter.

Where latents fire too densely for that to pay, `Dense` takes the place of `Code`: same methods, plain matrices.
"""

import importlib
import warnings
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

with warnings.catch_warnings():  # PyTorch says once, at the first CSR tensor, that support for them is in beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


class ByLatent(NamedTuple):
    """The entries of a pattern, sorted by latent."""

    order: Int[Tensor, " entries"]
    """The permutation that sorts them; entries of one latent stay in order of row."""
    rows: Int[Tensor, " entries"]
    starts: Int[Tensor, " d_sae_plus_1"]


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the entries of a sparse [rows, d_sae] matrix are: those of row i are `offsets[i]` to `offsets[i + 1]`."""

    indices: Int[Tensor, " entries"]
    """The latent of each entry."""
    offsets: Int[Tensor, " rows_plus_1"]
    d_sae: int

    @cached_property
    def rows(self) -> Int[Tensor, " entries"]:
        return torch.arange(len(self.offsets) - 1, device=self.indices.device).repeat_interleave(self.offsets.diff())

    @cached_property
    def by_latent(self) -> ByLatent:
        """Sorted once, for the three products of a backward pass that need it."""
        order = self.indices.to(torch.int32).argsort(stable=True)
        starts = F.pad(self.indices.bincount(minlength=self.d_sae).cumsum(0), (1, 0))
        return ByLatent(order, self.rows[order], starts)

    def only(self, places: Int[Tensor, " kept"]) -> "Pattern":
        """The entries at these places, which rise."""
        return Pattern(self.indices[places], torch.searchsorted(places, self.offsets), self.d_sae)


@dataclass(frozen=True, eq=False)
class Code:
    """A sparse [rows, d_sae] matrix. A value may be 0."""

    values: Float[Tensor, " entries"]
    pattern: Pattern

    def with_values(self, values: Float[Tensor, " entries"]) -> "Code":
        return replace(self, values=values)

    def at(self, parameter: Float[Tensor, " d_sae"]) -> Float[Tensor, " entries"]:
        """A latent's parameter, for each entry."""
        return parameter.index_select(0, self.pattern.indices)

    def decode(self, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "rows d_out"]:
        """self @ W_dec. Differentiable once, in values and `W_dec`."""
        return _Decode.apply(self.values, W_dec, self.pattern)

    def to_dense(self) -> Float[Tensor, "rows d_sae"]:
        """Differentiable in the values; those of the same place are added up."""
        pattern = self.pattern
        places = (pattern.rows, pattern.indices)
        return self.values.new_zeros(self.n_rows, pattern.d_sae).index_put(places, self.values, accumulate=True)

    def between(self, first: int, last: int) -> "Code":
        """The entries of the latents from `first` up to, not including, `last`."""
        pattern = self.pattern
        kept = ((pattern.indices >= first) & (pattern.indices < last)).nonzero()[:, 0]
        part = pattern.only(kept)
        return Code(self.values.index_select(0, kept), Pattern(part.indices - first, part.offsets, last - first))

    @property
    def n_rows(self) -> int:
        return len(self.pattern.offsets) - 1

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Which latents are positive in any row."""
        fired = torch.zeros(self.pattern.d_sae, dtype=torch.bool, device=self.values.device)
        return fired.index_fill_(0, self.pattern.indices[self.values > 0], True)


@dataclass(frozen=True, eq=False)
class Dense:
    """A [rows, d_sae] matrix with the methods of a `Code`, for latents that fire densely."""

    values: Float[Tensor, "rows d_sae"]

    def with_values(self, values: Float[Tensor, "rows d_sae"]) -> "Dense":
        return Dense(values)

    def at(self, parameter: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        return parameter

    def decode(self, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "rows d_out"]:
        return self.values @ W_dec

    def to_dense(self) -> Float[Tensor, "rows d_sae"]:
        return self.values

    @property
    def n_rows(self) -> int:
        return len(self.values)

    def fired(self) -> Bool[Tensor, " d_sae"]:
        return (self.values > 0).any(0)


def sample(
    x: Float[Tensor, "rows d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    bias: Float[Tensor, " d_sae"],
    values: Float[Tensor, " entries"],
    pattern: Pattern,
) -> Code:
    """The entries of (x - centre) @ W_enc + bias in a pattern, where `values` are those entries, already computed.

    Differentiable once in x, centre, W_enc and bias. The centre's gradient is -W_enc @ (the bias's gradient): one
    matrix-vector product, where that of the whole input would cost as much as decoding.
    """
    return Code(_Sample.apply(x, centre, W_enc, bias, values, pattern), pattern)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, centre, W_enc, bias, values, pattern):
        ctx.pattern = pattern
        ctx.save_for_backward(x, centre, W_enc)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, centre, W_enc = ctx.saved_tensors
        pattern, (for_x, for_centre, for_W_enc, for_bias, *_) = ctx.pattern, ctx.needs_input_grad
        grad_x = _product(grad, pattern, W_enc.T) if for_x else None
        grad_bias = grad_centre = grad_W_enc = None
        if for_centre or for_bias:
            grad_bias = _sums(grad, pattern)
            grad_centre = -(W_enc @ grad_bias) if for_centre else None
        if for_W_enc:
            centred = x if centre is None else x - centre
            grad_W_enc = _transposed_product(grad, pattern, centred).T
        return grad_x, grad_centre, grad_W_enc, grad_bias, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, W_dec, pattern):
        ctx.pattern = pattern
        ctx.save_for_backward(values, W_dec)
        return _product(values, pattern, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        values, W_dec = ctx.saved_tensors
        grad_values = sampled_product(grad, W_dec, ctx.pattern) if ctx.needs_input_grad[0] else None
        grad_W_dec = _transposed_product(values, ctx.pattern, grad) if ctx.needs_input_grad[1] else None
        return grad_values, grad_W_dec, None


def _product(values: Tensor, pattern: Pattern, dense: Tensor) -> Tensor:
    """S @ dense, [rows, d], for the sparse S that holds `values` in a pattern."""
    return _weighted_sums(values, pattern.indices, pattern.offsets, dense)


def _transposed_product(values: Tensor, pattern: Pattern, dense: Tensor) -> Tensor:
    """S.T @ dense, [d_sae, d]: each row is one gathered sum, in an order that is the same on every run."""
    order, rows, starts = pattern.by_latent
    return _weighted_sums(values[order], rows, starts, dense)


def _weighted_sums(values: Tensor, indices: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """Row i: the sum of values[e] * dense[indices[e]] over the entries e from offsets[i] up to offsets[i + 1]."""
    if kernels := _kernels(dense):
        return kernels.weighted_sums(values, indices, offsets, dense)
    return F.embedding_bag(indices, dense, offsets, per_sample_weights=values, mode="sum", include_last_offset=True)


def sampled_product(
    dense: Float[Tensor, "rows d"], weights: Float[Tensor, "d_sae d"], pattern: Pattern
) -> Float[Tensor, " entries"]:
    """The entries of dense @ weights.T in a pattern.

    On a CPU it is taken latent by latent, so that the weights are read once and what is gathered are rows of the
    smaller matrix: 2.3 times faster than row by row at [2048, 768] and d_sae 16,384.
    """
    if kernels := _kernels(dense):
        return kernels.dots(dense, weights, pattern.rows, pattern.indices)
    order, rows, starts = pattern.by_latent
    zeros = dense.new_zeros(len(rows))
    shape = pattern.d_sae, len(dense)
    transposed = torch.sparse_csr_tensor(starts, rows, zeros, shape, check_invariants=False)
    sampled = torch.sparse.sampled_addmm(transposed, weights, dense.T, beta=0.0).values()
    return torch.empty_like(sampled).index_copy_(0, order, sampled)


def _sums(values: Tensor, pattern: Pattern) -> Tensor:
    """The sum of each latent's values, [d_sae]."""
    return values.new_zeros(pattern.d_sae).index_add_(0, pattern.indices, values)


def _kernels(dense: Tensor) -> ModuleType | None:
    """The Triton kernels, where they can take a matrix; else PyTorch's own products are used."""
    return _triton() if dense.is_cuda and dense.dtype == torch.float32 else None


@cache
def _triton() -> ModuleType | None:
    try:
        return importlib.import_module("saes.kernels")
    except ImportError:
        return None
