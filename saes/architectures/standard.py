"""Standard: ReLU latents under an L1 penalty weighted by decoder norms. Anthropic, April 2024 update."""

from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.sae import SAE, Signals, Step


class Standard(SAE):
    """relu(pre-activations).

    Decoder norms are free: the penalty counts activation times norm, so that shrinking one by growing the other gains
    nothing. Source: transformer-circuits.pub/2024/april-update, "Update on how we train SAEs".
    """

    architecture = "standard"

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        return (x @ self.W_enc + self.encoder_bias).relu()

    def train_step(self, x: Float[Tensor, "rows d_in"], config: TrainConfig, signals: Signals) -> Step:
        latents = self.encode(x)
        reconstruction = self.decode(latents)
        error = (reconstruction - x).square().sum() / len(x)
        l1 = (latents.sum(0) @ self.W_dec.norm(dim=1)) / len(x)
        loss = error + config.l1_coefficient * signals.sparsity * l1
        active = latents.detach() > 0
        return Step(loss, reconstruction.detach(), active.any(0), active.sum() / len(x))
