"""Crosscoders: one set of latents for the activations at several sites of the same token.

Source: Lindsey et al. 2024, transformer-circuits.pub/2024/crosscoders; with BatchTopK, Minder et al. 2025,
arXiv:2504.02922.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.batchtopk import BatchTopK
from saes.architectures.jumprelu import JumpReLU
from saes.architectures.standard import Standard
from saes.config import TrainConfig
from saes.route import Route, all_sites
from saes.sae import SAE, SAEConfig
from workbench.errors import SettingError


class Crosscoding(SAE):
    """What makes a crosscoder of any SAE: it acts on the sites' activations side by side, and whatever counts decoder
    norms counts a latent's norm at each site apart, and adds them up.

    On disk it is a directory like that of the others, which SAELens does not open: `widths` in cfg.json says how many
    of the rows of W_enc, and columns of W_dec, belong to each site, and `metadata.hook_names` which sites those are.
    """

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        if len(widths) < 2:
            raise SettingError("a crosscoder is trained on the activations of several sites, and this run reads one")
        return replace(super().shape(config, widths, metadata), widths=tuple(widths))

    @classmethod
    def plan(cls, config: TrainConfig, known: Sequence[str]) -> Route:
        sites = all_sites(config.site, known)
        if len(sites) < 2:
            raise SettingError(
                f"{cls.architecture} reads several sites, and {config.site} names one; "
                "give a pattern such as blocks.*.hook_resid_post, or names with commas between them"
            )
        return Route(sites, sites)

    @property
    def widths(self) -> tuple[int, ...]:
        return self.cfg.widths

    def parts(self, written: Float[Tensor, "... d_out"]) -> tuple[Tensor, ...]:
        return written.split(self.cfg.widths, dim=-1)

    def norms(self) -> Float[Tensor, " d_sae"]:
        """The sum over sites of a latent's decoder norms there."""
        return torch.stack([part.norm(dim=1) for part in self.parts(self.W_dec)]).sum(0)


class Crosscoder(Crosscoding, Standard):
    architecture = "crosscoder"


class JumpReLUCrosscoder(Crosscoding, JumpReLU):
    architecture = "jumprelu_crosscoder"


class BatchTopKCrosscoder(Crosscoding, BatchTopK):
    architecture = "batchtopk_crosscoder"
    used_as = JumpReLUCrosscoder
