"""Crosscoder: one set of latents for the activations at several sites of the same token.

Source: Lindsey et al. 2024, transformer-circuits.pub/2024/crosscoders.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.standard import Standard
from saes.config import TrainConfig
from saes.sae import SAEConfig
from workbench.errors import SettingError


class Crosscoder(Standard):
    """A standard SAE on the sites' activations side by side, whose penalty counts a latent's norm at each site apart.

    On disk it is a directory like that of the others, which SAELens does not open: `widths` in cfg.json says how many
    of the rows of W_enc, and columns of W_dec, belong to each site, and `metadata.hook_names` which sites those are.
    """

    architecture = "crosscoder"

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        if len(widths) < 2:
            raise SettingError("a crosscoder is trained on the activations of several sites, and this run reads one")
        return replace(super().shape(config, widths, metadata), widths=tuple(widths))

    def norms(self) -> Float[Tensor, " d_sae"]:
        """The sum over sites of a latent's decoder norms there."""
        parts = self.W_dec.split(self.cfg.widths, dim=1)
        return torch.stack([part.norm(dim=1) for part in parts]).sum(0)
