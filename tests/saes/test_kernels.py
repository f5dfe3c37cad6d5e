"""The Triton kernels against PyTorch: on a GPU, or in Triton's interpreter where there is none."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch for CUDA")

from saes import kernels, sparse

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("width", [1, 40, 256, 700])
def test_products_equal_those_of_pytorch(width, monkeypatch):
    """Decoding and both of its gradients, for rows of no entry, one, and several."""
    torch.manual_seed(0)
    offsets = torch.tensor([0, 3, 3, 10, 11], device=DEVICE)
    pattern = sparse.Pattern(torch.randint(50, (11,), device=DEVICE), offsets, 50)
    values = torch.randn(11, device=DEVICE, requires_grad=True)
    W_dec = torch.randn(50, width, device=DEVICE, requires_grad=True)
    target = torch.randn(4, width, device=DEVICE)
    results = []
    for module in (None, kernels):
        monkeypatch.setattr(sparse, "_kernels", lambda dense, module=module: module)
        decoded = sparse.Code(values, pattern).decode(W_dec)
        gradients = torch.autograd.grad((decoded - target).square().sum(), (values, W_dec))
        results.append((decoded, *gradients))
    for ours, reference in zip(*results, strict=True):
        assert reference.abs().max() > 0.1
        torch.testing.assert_close(ours, reference)


def test_nothing_to_add_up():
    nothing = torch.empty(0, dtype=torch.int64, device=DEVICE)
    weights = torch.ones(3, 2, device=DEVICE)
    sums = kernels.weighted_sums(
        weights.new_empty(0), nothing, torch.zeros(3, dtype=torch.int64, device=DEVICE), weights
    )
    assert torch.equal(sums, torch.zeros(2, 2, device=DEVICE))
    assert not len(kernels.dots(weights, weights, nothing, nothing))
