"""TopK: the k largest latents of each token, and an auxiliary loss that revives dead ones.

Source: Gao et al. 2024, arXiv:2406.04093.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.config import TrainConfig
from saes.sae import SAE, Forward, SAEConfig, Signals, squared_error, variance
from saes.selection import Largest, encode
from saes.sparse import Code, Dense


class TopK(SAE):
    """relu of the k pre-activations that are largest times their decoder norm.

    The reconstruction does not change when a decoder row grows and its encoder shrinks, so the norms have no part in
    any gradient: they only compare latents.
    """

    architecture = "topk"

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        return replace(super().shape(config, widths, metadata), k=config.k, by_norm=True)

    def code(self, x: Float[Tensor, "rows d_in"]) -> tuple[Code | Dense, Code | Dense]:
        norms = self.norms().detach() if self.cfg.by_norm else None
        k = int(self.cfg.k)
        pre = self.pre_activations(x, Largest(min(k, self.cfg.d_sae), norms), among=self.team.among(k, norms))
        return pre, pre.with_values(pre.values.relu())

    def penalty(self, forward: Forward, config: TrainConfig, signals: Signals) -> Float[Tensor, ""] | float:
        if not (len(signals.dead) and config.aux_coefficient):
            return 0.0
        error = (forward.target - forward.reconstruction).detach()
        spread = variance(forward.target, self.team)
        return config.aux_coefficient * spread * self.auxiliary_loss(forward.x, error, signals.dead)

    def auxiliary_loss(
        self, x: Float[Tensor, "rows d_in"], error: Float[Tensor, "rows d_out"], dead: Int[Tensor, " n_dead"]
    ) -> Float[Tensor, ""]:
        """How badly the top d_in/2 dead latents model the error of the live ones: |e - e_hat|^2 / |e|^2.

        The decoder's bias takes no part: the error has none. Source: Gao et al. 2024, appendix A.2.
        """
        k = min(len(dead), max(1, self.cfg.d_in // 2))
        dead = self.team.own(dead, self.cfg.d_sae)
        norms = self.norms().detach()[dead]
        select, among = Largest(min(k, len(dead)), norms), self.team.among(k, norms)
        code = encode(x, self.centre, self.W_enc[:, dead], self.b_enc[dead], select, among=among)
        modelled = self.team.from_latents(code.with_values(code.values.relu()).decode(self.W_dec[dead]))
        size = self.team.mean(error.square().sum() / len(error))
        return squared_error(modelled, error) / size.clamp_min(torch.finfo(error.dtype).tiny)

    def _scale_latents(self, norms: Float[Tensor, " d_sae"]) -> None:
        super()._scale_latents(norms)
        self.cfg = replace(self.cfg, by_norm=False)
