"""Firings: every activation above zero in some contexts, as a list of entries instead of a mostly empty matrix."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from saes.route import rows_at
from saes.sae import SAE
from workbench.activations import ActivationBatch

DENSE_ENTRIES = {"cpu": 2**22, "other": 2**26}
"""How many dense activations are held at a time: on a CPU few enough that they stay in its cache."""


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
def firings(sae: SAE, batch: ActivationBatch, counted: Bool[Tensor, "context pos"]) -> Firings:
    """What fires in a batch harvested at the sites that the SAE reads, at the positions that count.

    Raises `SettingError` if the SAE does not fit the activations.
    """
    reads = sae.route.reads
    device = batch.activations[reads[0]].device
    where = counted.flatten().nonzero()[:, 0]
    rows = rows_at(sae, reads, batch.activations, counted.to(device))
    step = max(1, DENSE_ENTRIES.get(device.type, DENSE_ENTRIES["other"]) // sae.cfg.d_sae)
    parts = []
    for start in range(0, len(rows), step):
        latents = sae.encode(rows[start : start + step])
        row, latent = latents.nonzero(as_tuple=True)
        value = latents[row, latent].float()
        parts.append((where[start + row.cpu()].int().numpy(), latent.int().cpu().numpy(), value.cpu().numpy()))
    none = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
    token, latent, value = (np.concatenate(column) for column in zip(none, *parts, strict=True))
    return Firings(
        tokens=batch.tokens.numpy(),
        documents=batch.documents.numpy(),
        counted=counted.numpy(),
        labels=None if batch.labels is None else batch.labels.numpy(),
        token=token,
        latent=latent,
        value=value,
    )
