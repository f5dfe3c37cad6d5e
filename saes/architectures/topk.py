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
from saes.sae import SAE, Forward, SAEConfig, Signals
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
        pre = self.pre_activations(x, Largest(int(self.cfg.k), norms))
        return pre, pre.with_values(pre.values.relu())

    def penalty(self, forward: Forward, config: TrainConfig, signals: Signals) -> Float[Tensor, ""] | float:
        if not (len(signals.dead) and config.aux_coefficient):
            return 0.0
        error = (forward.target - forward.reconstruction).detach()
        variance = (forward.target - forward.target.mean(0)).square().sum() / len(error)
        return config.aux_coefficient * variance * self.auxiliary_loss(forward.x, error, signals.dead)

    def auxiliary_loss(
        self, x: Float[Tensor, "rows d_in"], error: Float[Tensor, "rows d_out"], dead: Int[Tensor, " n_dead"]
    ) -> Float[Tensor, ""]:
        """How badly the top d_in/2 dead latents model the error of the live ones: |e - e_hat|^2 / |e|^2.

        The decoder's bias takes no part: the error has none. Source: Gao et al. 2024, appendix A.2.
        """
        k = min(len(dead), max(1, self.cfg.d_in // 2))
        select = Largest(k, self.norms().detach()[dead])
        code = encode(x, self.centre, self.W_enc[:, dead], self.b_enc[dead], select)
        modelled = code.with_values(code.values.relu()).decode(self.W_dec[dead])
        return (modelled - error).square().sum() / error.square().sum().clamp_min(torch.finfo(error.dtype).tiny)

    def _scale_latents(self, norms: Float[Tensor, " d_sae"]) -> None:
        super()._scale_latents(norms)
        self.cfg = replace(self.cfg, by_norm=False)
