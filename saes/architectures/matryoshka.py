"""Matryoshka: a BatchTopK SAE whose first latents must reconstruct by themselves, at several widths.

Source: Bussmann et al. 2025, arXiv:2503.17547.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from saes.architectures.batchtopk import BatchTopK
from saes.config import TrainConfig
from saes.sae import Forward, Signals, squared_error


class Matryoshka(BatchTopK):
    """General features settle among the first latents, and are not absorbed by the special ones behind them."""

    architecture = "matryoshka"

    def penalty(self, forward: Forward, config: TrainConfig, signals: Signals) -> Float[Tensor, ""] | float:
        """The squared errors of the inner widths, added to that of the whole, and the auxiliary loss."""
        loss = super().penalty(forward, config, signals)
        edges = (0, *config.inner_widths)
        sizes = [b - a for a, b in pairwise((*edges, self.cfg.d_sae))]
        partial = self.b_dec
        for (first, last), W_dec in zip(pairwise(edges), self.W_dec.split(sizes), strict=False):
            partial = partial + forward.active.between(first, last).decode(W_dec)
            loss = loss + squared_error(partial, forward.target)
        return loss
