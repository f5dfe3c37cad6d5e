"""Firings: every activation above zero in some contexts, as a list of entries instead of a mostly empty matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from torch import Tensor

from saes.sae import SAE

DENSE_ENTRIES = 2**26
"""How many dense activations are held at a time: 256 MiB in 32-bit floats."""


@dataclass(frozen=True)
class Firings:
    """What fires in some whole contexts. Tokens that do not count (padding, special tokens) have no entries."""

    tokens: Int64[np.ndarray, "context pos"]
    documents: Int64[np.ndarray, "context pos"]
    counted: Bool[np.ndarray, "context pos"]
    labels: Bool[np.ndarray, "context pos concept"] | None
    token: Int32[np.ndarray, " entry"]
    """Flat index into [context, pos], ascending."""
    latent: Int32[np.ndarray, " entry"]
    value: Float32[np.ndarray, " entry"]

    @cached_property
    def by_latent(self) -> Int64[np.ndarray, " entry"]:
        """The permutation that sorts the entries by latent, those of one latent staying in order of token."""
        return self.latent.argsort(kind="stable")


@torch.no_grad()
def firings(
    sae: SAE,
    activations: Float[Tensor, "context pos d_in"],
    tokens: Int[Tensor, "context pos"],
    documents: Int[Tensor, "context pos"],
    counted: Bool[Tensor, "context pos"],
    labels: Bool[Tensor, "context pos concept"] | None = None,
) -> Iterator[Firings]:
    """Encode as many contexts at a time as memory allows, each whole."""
    step = max(1, DENSE_ENTRIES // (tokens.shape[1] * sae.cfg.d_sae))
    for part in (slice(start, start + step) for start in range(0, len(tokens), step)):
        use = counted[part].to(activations.device)
        latents = sae.encode(activations[part][use])
        row, latent = latents.nonzero(as_tuple=True)
        yield Firings(
            tokens=tokens[part].cpu().numpy(),
            documents=documents[part].cpu().numpy(),
            counted=counted[part].cpu().numpy(),
            labels=None if labels is None else labels[part].cpu().numpy(),
            token=use.flatten().nonzero()[:, 0][row].to(torch.int32).cpu().numpy(),
            latent=latent.to(torch.int32).cpu().numpy(),
            value=latents[row, latent].float().cpu().numpy(),
        )
