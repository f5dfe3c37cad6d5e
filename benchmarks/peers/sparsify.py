"""sparsify's sparse coder under its training loop's operations, as the peer of `benchmarks/sae_training.py`.

It holds decoder rows at norm one, so that only the first step computes what ours does. Its loop is one long method of
a class that runs a language model; the operations on the coder are repeated here, with Adam in place of its default.
"""

from collections.abc import Callable

import torch
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

from saes.config import TrainConfig

CLASSES = {"topk": SparseCoder}
AGREES = "at the first step"


def stepper(config: TrainConfig, weights: dict[str, Tensor]) -> Callable[[Tensor], float]:
    """A step, which returns the squared error of a row, averaged."""
    d_sae, d_in = weights["W_dec"].shape
    coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=config.k))
    with torch.no_grad():
        coder.encoder.weight.copy_(weights["W_enc"].T)
        coder.encoder.bias.copy_(weights["b_enc"])
        coder.W_dec.copy_(weights["W_dec"])
        coder.b_dec.copy_(weights["b_dec"])
    optimizer = torch.optim.Adam(coder.parameters(), lr=config.lr)
    fired = torch.zeros(d_sae, dtype=torch.bool)

    def step(x: Tensor) -> float:
        coder.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        out = coder(x, total_variance=variance)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        return (out.fvu * variance).item() / len(x)

    return step
