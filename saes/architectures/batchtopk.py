"""BatchTopK: k latents per token on average, the largest of the whole batch.

Source: Bussmann et al. 2024, arXiv:2412.06410.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.jumprelu import JumpReLU
from saes.architectures.topk import TopK
from saes.sae import SAE, SAEConfig
from saes.selection import Above, batch_top_k
from saes.sparse import Code, Dense

THRESHOLD_RATE = 0.05
"""How far the running threshold moves towards each batch's. Slower than that, it lags behind a short training."""


class BatchTopK(TopK):
    """In training, the k·rows pre-activations of a batch that are largest times their decoder norm; in use, those above
    a threshold: the running mean of the least that was chosen. It is saved as a JumpReLU with that threshold.
    """

    architecture = "batchtopk"
    used_as: ClassVar[type[SAE]] = JumpReLU

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__(cfg)
        self.register_buffer("topk_threshold", torch.zeros((), dtype=torch.float64))

    def code(self, x: Float[Tensor, "rows d_in"]) -> tuple[Code | Dense, Code | Dense]:
        norms = self.norms().detach()
        if self.training:
            pre, least = batch_top_k(
                x, self.centre, self.W_enc, self.b_enc, self.cfg.k, norms, self.team, self.screened
            )
            with torch.no_grad():
                self.topk_threshold.lerp_(least.double(), THRESHOLD_RATE)
        else:
            pre = self.pre_activations(x, Above(self.topk_threshold / norms, 1.0))
        return pre, pre.with_values(pre.values.relu())

    def for_use(self) -> SAE:
        trained_as = {"training_architecture": self.architecture}
        cfg = replace(self.cfg, k=None, metadata=dict(self.cfg.metadata) | trained_as)
        copy = self._copy_as(self.used_as, cfg)
        copy.threshold.copy_(self.topk_threshold / self.norms().clamp_min(torch.finfo(self.W_dec.dtype).tiny))
        return copy
