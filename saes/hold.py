"""What holds the number of active latents in fine-tuning, such that it stays that of the SAE as it was.

The SAE as it was reads the same batch, so that the two counts differ by what was learnt and by nothing else.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from saes.sae import SAE
from saes.sparse import Code, Dense

RATE = 0.1
"""How fast thresholds follow the logarithm of the ratio of the two counts, in mean activations."""

STIFFNESS = 8
"""How hard the L1 penalty resists: its weight is in proportion to this power of the ratio."""

LEAST_WEIGHT = 1e-3
"""Weight of the L1 penalty at a ratio of 1, where the SAE had none; errors are fractions of the variance."""


class Hold:
    """For SAEs with a k, which needs no help."""

    sets: tuple[str, ...] = ()
    """Parameters that it sets, and that are not learnt."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae

    def penalty(self, loss: Float[Tensor, ""], active: Code | Dense, before: Code | Dense) -> Float[Tensor, ""] | float:
        """What to add to the loss, given the latents' activations and those of the SAE as it was."""
        return 0.0

    def follow(self, active: Code | Dense, before: Code | Dense) -> None:
        """Called after the optimiser's step."""

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs beside the weights."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""


class Thresholds(Hold):
    """For JumpReLU: all thresholds move by one distance, in proportion to the mean activation."""

    sets = ("threshold",)

    @torch.no_grad()
    def follow(self, active: Code | Dense, before: Code | Dense) -> None:
        self.sae.threshold.add_(_distance(active, before)).clamp_(min=0.0)


class Gates(Hold):
    """For gated SAEs: all gates move likewise. They have no gradient of their own here."""

    sets = ("b_gate",)

    @torch.no_grad()
    def follow(self, active: Code | Dense, before: Code | Dense) -> None:
        self.sae.b_gate.sub_(_distance(active, before))


class Penalty(Hold):
    """For ReLU SAEs: an L1 penalty whose weight follows the number of active latents.

    Source: the code of Karvonen 2025 (arXiv:2503.17272), where the weight begins as in training and moves by a
    thousandth a step, too slowly for short runs. Here it begins where scaling all activations up would gain as much in
    the loss as it costs, which is where training with an L1 penalty leaves an SAE, whatever its weight was.
    """

    weight: Float[Tensor, ""] | None = None

    def penalty(self, loss: Float[Tensor, ""], active: Code | Dense, before: Code | Dense) -> Float[Tensor, ""]:
        if self.weight is None:
            (grad,) = torch.autograd.grad(loss, self.sae.W_dec, retain_graph=True)
            self.weight = -(grad * self.sae.W_dec.detach()).sum().clamp_max(-LEAST_WEIGHT)
        weight = self.weight * _ratio(active, before) ** STIFFNESS
        return weight * self._l1(active) / self._l1(before)

    def _l1(self, active: Code | Dense) -> Float[Tensor, ""]:
        return (active.values * active.at(self.sae.norms().detach())).sum()

    def state(self) -> dict[str, Tensor]:
        return {} if self.weight is None else {"penalty": self.weight}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.weight = state.get("penalty")


def hold_for(sae: SAE) -> Hold:
    if sae.cfg.k is not None:
        return Hold(sae)
    kinds = {"jumprelu": Thresholds, "gated": Gates}
    return kinds.get(sae.architecture, Penalty)(sae)


def l0(active: Code | Dense) -> float:
    """Mean number of active latents per row."""
    return (active.values > 0).sum().item() / active.n_rows


def _distance(active: Code | Dense, before: Code | Dense) -> Float[Tensor, ""]:
    """How far thresholds are to rise where too many latents are active, or to fall where too few are."""
    size = active.values.sum() / (active.values > 0).sum().clamp_min(1)
    return RATE * math.log(_ratio(active, before)) * size


def _ratio(active: Code | Dense, before: Code | Dense) -> float:
    """Active latents over those there should be, within a factor of two."""
    return min(2.0, max(0.5, l0(active) / max(l0(before), 1e-9)))
