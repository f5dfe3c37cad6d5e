"""Gated: one path decides which latents are active, another how strongly.

Source: Rajamanoharan et al. 2024, arXiv:2404.16014.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.config import TrainConfig
from saes.sae import SAE, Forward, SAEConfig, Signals, squared_error
from saes.selection import Above
from saes.sparse import Code, Dense


class Gated(SAE):
    """Active where x @ W_enc + b_gate > 0, as strongly as relu(exp(r_mag) * (x @ W_enc) + b_mag).

    The paths share one product with `W_enc`, and both are sparse where the gate is.
    """

    architecture = "gated"

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__(cfg)
        del self.b_enc
        self.b_gate, self.b_mag, self.r_mag = (nn.Parameter(torch.zeros(cfg.d_sae)) for _ in range(3))

    def code(self, x: Float[Tensor, "rows d_in"]) -> tuple[Code | Dense, Code | Dense]:
        gate = self.pre_activations(x, Above(0.0), self.b_gate)
        shared = gate.values - gate.at(self.b_gate)
        magnitude = (shared * gate.at(self.r_mag).exp() + gate.at(self.b_mag)).relu()
        return gate, gate.with_values(magnitude * (gate.values > 0))

    def penalty(self, forward: Forward, config: TrainConfig, signals: Signals) -> Float[Tensor, ""]:
        """An L1 penalty on the gate, times decoder norms, and the error of decoding the gate itself.

        The paper holds the decoder fixed in the latter (equation 8); here, as in SAELens, it learns from both: held
        fixed, training found none of a known dictionary that it finds whole this way.
        """
        gate = forward.pre.with_values(forward.pre.values.relu())
        l1 = (gate.values * gate.at(self.norms())).sum() / gate.n_rows
        by_gate = gate.decode(self.W_dec) + self.b_dec
        return config.l1_coefficient * signals.sparsity * l1 + squared_error(by_gate, forward.target)

    def _scale_latents(self, norms: Float[Tensor, " d_sae"]) -> None:
        self.b_gate.mul_(norms)
        self.b_mag.mul_(norms)
