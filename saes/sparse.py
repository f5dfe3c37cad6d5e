"""Sparse codes, and their matrix products: the cost is that of the k latents which fire, not of all d_sae.

Decoding, its two backward products and the encoder's weight gradient cost 4·d_in·d_sae multiply-adds a row when dense,
and 4·d_in·k from `values` and `indices`. Only the encoder's forward product must stay dense, since the top k are not
known before it.
"""

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

with warnings.catch_warnings():  # PyTorch says once, at the first CSR tensor, that support for them is in beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


class Code(NamedTuple):
    """The active latents of each row: how strongly, and which. A value may be 0, where fewer than k are positive."""

    values: Float[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]


def encode_top_k(
    x: Float[Tensor, "rows d_in"], W_enc: Float[Tensor, "d_in d_sae"], bias: Float[Tensor, " d_sae"], k: int
) -> Code:
    """relu of the k largest entries of each row of `x @ W_enc + bias`. Differentiable once, in all three."""
    return Code(*_EncodeTopK.apply(x, W_enc, bias, k))


def decode(code: Code, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "rows d_in"]:
    """The sum of the active latents' decoder rows, each times its value. Differentiable once, in values and `W_dec`."""
    return _Decode.apply(code.values, code.indices, W_dec)


def to_dense(code: Code, d_sae: int) -> Float[Tensor, "rows d_sae"]:
    """Values at their places, zeros elsewhere. Differentiable in the values."""
    return code.values.new_zeros(len(code.values), d_sae).scatter(1, code.indices, code.values)


class _EncodeTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W_enc, bias, k):
        values, indices = torch.addmm(bias, x, W_enc).topk(k, dim=-1, sorted=False)
        values = values.relu()
        ctx.save_for_backward(x, W_enc, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_values, _):
        x, W_enc, values, indices = ctx.saved_tensors
        d_sae = W_enc.shape[1]
        grad = grad_values * (values > 0)
        grad_x = _product(grad, indices, W_enc.T) if ctx.needs_input_grad[0] else None
        grad_W_enc = _transposed_product(grad, indices, x, d_sae).T if ctx.needs_input_grad[1] else None
        grad_bias = grad.new_zeros(d_sae).index_add_(0, indices.flatten(), grad.flatten())
        return grad_x, grad_W_enc, grad_bias, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, indices, W_dec):
        ctx.save_for_backward(values, indices, W_dec)
        return _product(values, indices, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        values, indices, W_dec = ctx.saved_tensors
        grad_W_dec = _transposed_product(values, indices, grad, len(W_dec)) if ctx.needs_input_grad[2] else None
        return _sampled_product(grad, W_dec, indices), None, grad_W_dec


def _product(values: Tensor, indices: Tensor, dense: Tensor) -> Tensor:
    """S @ dense, [rows, d_in], for the [rows, d_sae] matrix S that holds `values` at `indices`."""
    return F.embedding_bag(indices, dense, per_sample_weights=values, mode="sum")


def _transposed_product(values: Tensor, indices: Tensor, dense: Tensor, d_sae: int) -> Tensor:
    """S.T @ dense, [d_sae, d_in].

    The entries are sorted by latent, so that each row of the result is one gathered sum: no [rows, k, d_in]
    intermediate, and no order that changes from run to run.
    """
    flat = indices.flatten()
    order = flat.to(torch.int32).argsort(stable=True)
    starts = flat.bincount(minlength=d_sae).cumsum(0).roll(1)
    starts[0] = 0
    rows = order // indices.shape[1]
    return F.embedding_bag(rows, dense, starts, per_sample_weights=values.flatten()[order], mode="sum")


def _sampled_product(grad: Tensor, W_dec: Tensor, indices: Tensor) -> Tensor:
    """The entries at `indices` of grad @ W_dec.T, [rows, k]."""
    rows, k = indices.shape
    starts = torch.arange(0, rows * k + 1, k, device=indices.device)
    pattern = torch.sparse_csr_tensor(
        starts, indices.flatten(), grad.new_zeros(rows * k), (rows, len(W_dec)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(pattern, grad, W_dec.T).values().view(rows, k)
