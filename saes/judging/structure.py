"""What a decoder's directions say of an SAE: how close they lie, and how far they are made of a few common parts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.index.geometry import neighbours
from saes.trainer import Trainer

META_K = 4
"""Latents of the meta-dictionary that may make up one direction."""


@dataclass(frozen=True)
class Structure:
    """The geometry of a decoder."""

    mean_max_cosine: float
    """Mean over latents of the largest cosine with another latent's direction. High where directions are shared out
    among near copies (splitting), or where the dictionary is crowded."""
    meta_explained: float
    """Share of the variance of the unit decoder rows that a dictionary of d_sae / 4 explains with 4 latents a row:
    1 - sum |w - w_hat|^2 / sum |w - mean|^2. High where latents are compounds of a few common parts."""

    def rows(self) -> list[tuple[str, str, str]]:
        return [
            ("nearest other direction", f"{self.mean_max_cosine:.4f}", "mean cosine"),
            ("meta-structure", f"{self.meta_explained:.2%}", "of the decoder in 4 of d_sae/4 parts"),
        ]


def structure(W_dec: Float[Tensor, "d_sae d_in"], seed: int = 0) -> Structure:
    return Structure(mean_max_cosine(W_dec), meta_explained(W_dec, seed=seed))


def mean_max_cosine(W_dec: Float[Tensor, "d_sae d_in"]) -> float:
    """See `Structure`. NaN for a single latent."""
    return neighbours(W_dec, 1)[1].mean().item()


def meta_explained(W_dec: Float[Tensor, "d_sae d_in"], *, steps: int = 400, seed: int = 0) -> float:
    """See `Structure`. A TopK SAE is trained on the decoder's rows, and measured on the same rows.

    Source: Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders", appendix D.1
    (meta-SAEs), which SAEBench's `meta_structure` reproduces with BatchTopK.
    """
    rows = torch.nn.functional.normalize(W_dec.detach().float(), dim=1)
    width = max(1, len(rows) // 4)
    batch = min(len(rows), 1024)
    config = TrainConfig(
        site="W_dec",
        out=Path("W_dec"),
        d_sae=width,
        k=min(META_K, width),
        tokens=steps * batch,
        batch_size=batch,
        dead_after=20 * batch,
        seed=seed,
    )
    trainer = Trainer(config, rows, metadata={})
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        trainer.step(rows[torch.randperm(len(rows), generator=generator)[:batch]])
    with torch.no_grad():
        error = trainer.folded()(rows) - rows
    return 1 - (error.square().sum() / (rows - rows.mean(0)).square().sum()).item()
