"""Standard: ReLU latents under an L1 penalty weighted by decoder norms. Anthropic, April 2024 update."""

from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.sae import SAE, Forward, Signals
from saes.selection import Above
from saes.sparse import Code, Dense


class Standard(SAE):
    """relu(pre-activations). Source: transformer-circuits.pub/2024/april-update, "Update on how we train SAEs"."""

    architecture = "standard"

    def code(self, x: Float[Tensor, "rows d_in"]) -> tuple[Code | Dense, Code | Dense]:
        pre = self.pre_activations(x, Above(0.0))
        return pre, pre.with_values(pre.values.relu())

    def penalty(self, forward: Forward, config: TrainConfig, signals: Signals) -> Float[Tensor, ""]:
        """The activations, each times its decoder norm, summed over latents and averaged over rows."""
        active = forward.active
        l1 = self.team.from_latents((active.values * active.at(self.norms())).sum()) / active.n_rows
        return config.l1_coefficient * signals.sparsity * l1
