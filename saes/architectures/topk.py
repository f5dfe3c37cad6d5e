"""TopK: the k largest latents of each token, and an auxiliary loss that revives dead ones.

Source: Gao et al. 2024, arXiv:2406.04093.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.sae import SAE, Signals, Step, normalized_error
from saes.sparse import decode, encode_top_k, to_dense


class TopK(SAE):
    """relu(top k of the pre-activations). The decoder's rows are held at unit norm, so that latents compete fairly."""

    architecture = "topk"

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        code = encode_top_k(x.reshape(-1, self.cfg.d_in), self.W_enc, self.encoder_bias, self.cfg.k)
        return to_dense(code, self.cfg.d_sae).view(*x.shape[:-1], self.cfg.d_sae)

    def train_step(self, x: Float[Tensor, "rows d_in"], config: TrainConfig, signals: Signals) -> Step:
        bias = self.encoder_bias
        code = encode_top_k(x, self.W_enc, bias, self.cfg.k)
        reconstruction = decode(code, self.W_dec) + self.b_dec
        loss = normalized_error(reconstruction, x)
        if len(signals.dead) and config.aux_coefficient:
            error = (x - reconstruction).detach()
            loss = loss + config.aux_coefficient * self.auxiliary_loss(x, error, bias, signals.dead)
        active = code.values > 0
        fired = torch.zeros(self.cfg.d_sae, dtype=torch.bool, device=x.device)
        fired[code.indices[active]] = True
        return Step(loss, reconstruction.detach(), fired, active.sum() / len(x))

    def auxiliary_loss(
        self,
        x: Float[Tensor, "rows d_in"],
        error: Float[Tensor, "rows d_in"],
        bias: Float[Tensor, " d_sae"],
        dead: Tensor,
    ) -> Float[Tensor, ""]:
        """How badly the top d_in/2 dead latents model the error of the live ones: |e - e_hat|^2 / |e|^2.

        The decoder's bias takes no part: the error has none. Source: Gao et al. 2024, appendix A.2.
        """
        k = min(len(dead), max(1, self.cfg.d_in // 2))
        code = encode_top_k(x, self.W_enc[:, dead], bias[dead], k)
        modelled = decode(code, self.W_dec[dead])
        return (modelled - error).square().sum() / error.square().sum().clamp_min(1e-12)

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Remove the gradient along each decoder row, which the unit norm would undo but Adam would remember."""
        grad = self.W_dec.grad
        grad.addcmul_((grad * self.W_dec).sum(1, keepdim=True), self.W_dec, value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))
