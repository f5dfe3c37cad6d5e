"""Matching pursuit: latents are taken one by one, each the best for what the earlier ones left over.

Source: Costa et al. 2025, arXiv:2506.05239 (MP-SAE). Encoder and decoder are one matrix of unit rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.sae import SAE, SAEConfig
from saes.sparse import Code, Dense, Pattern


class MatchingPursuit(SAE):
    """At most k times: add the latent whose decoder row has the largest product with the residual, and subtract it.

    Ends for a row when its residual is below `residual_threshold` or the latent has been taken before: the rules of
    SAELens. Every product is differentiable, through the residual too.
    """

    architecture = "matching_pursuit"

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__(cfg)
        del self.W_enc, self.b_enc

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        return replace(super().shape(config, widths, metadata), k=config.k)

    def code(self, x: Float[Tensor, "rows d_in"]) -> tuple[Code | Dense, Code | Dense]:
        residual = x if self.centre is None else x - self.centre
        rows = len(x)
        going = torch.ones(rows, dtype=torch.bool, device=x.device)
        taken = torch.empty(rows, 0, dtype=torch.int64, device=x.device)
        values = x.new_empty(rows, 0)
        for _ in range(int(self.cfg.k)):
            with torch.no_grad():
                latent = (residual @ self.W_dec.T).argmax(1)
            directions = self.W_dec.index_select(0, latent)
            value = (residual * directions).sum(1).relu() * going
            residual = residual - value[:, None] * directions
            again = taken == latent[:, None]
            first = ~again.any(1)
            values = torch.cat([values + again * value[:, None], (value * first)[:, None]], 1)
            taken = torch.cat([taken, latent[:, None]], 1)
            going = going & first & (value > 0) & (residual.detach().norm(dim=1) >= self.cfg.residual_threshold)
            if not going.any():
                break
        offsets = torch.arange(rows + 1, device=x.device) * taken.shape[1]
        code = Code(values.flatten(), Pattern(taken.flatten(), offsets, self.cfg.d_sae))
        return code, code

    @torch.no_grad()
    def constrain(self) -> None:
        self.W_dec.copy_(F.normalize(self.W_dec, dim=1))

    @torch.no_grad()
    def initialise(self, centre: Float[Tensor, " width"], seed: int) -> SAE:
        random = torch.randn(self.W_dec.shape, generator=torch.Generator().manual_seed(seed))
        self.W_dec.copy_(F.normalize(random, dim=1))
        self.b_dec.copy_(centre)
        return self

    @torch.no_grad()
    def fold(self, scale: Float[Tensor, " width"] | float) -> SAE:
        """Its rows have unit norm; only the bias and the threshold on the residual are in units of the input."""
        scale = float(torch.as_tensor(scale).flatten()[0])
        self.b_dec.div_(scale)
        self.cfg = replace(self.cfg, residual_threshold=self.cfg.residual_threshold / scale)
        return self
