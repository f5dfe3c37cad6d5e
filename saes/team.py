"""What may be spread over processes when an SAE is trained: its batch, or its latents.

Nothing here is: a `Team` is one process, which has all rows and all latents, and what it is asked to bring together is
whole already. `saes.parallel` has the teams of several. The trainer and the architectures ask theirs wherever a figure
is of the whole batch or of the whole dictionary, and know no more of the matter.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from saes.config import TrainConfig
    from saes.sae import SAE, Step
    from saes.sparse import Pattern
    from workbench.activations import RowSource
    from workbench.model import HookedModel

    Found = tuple[Float[Tensor, " entries"], Pattern]
    Relay = Callable[[RowSource, int, torch.dtype], RowSource]


class Team:
    """One process, and the base of teams of several: every method says what a team does."""

    leads = True
    """Whether this process is the one that reads the corpus and writes files."""
    size = 1
    row_parts = 1
    """Into how many equal parts the rows of a batch are divided."""
    latent_parts = 1
    """Into how many equal parts the latents are divided."""

    def check(self, config: "TrainConfig") -> None:
        """Raises `SettingError` if what `config` asks for cannot be divided so."""

    def device_of(self, name: str | None) -> str | torch.device | None:
        """This process's device, where `name` asks for one."""
        return name

    # What every process says

    def wait(self) -> None:
        """Return when every process has come so far."""

    def total(self, number: float) -> float:
        """The sum of every process's number."""
        return number

    def same(self, tensor: Tensor) -> Tensor:
        """The tensor of the process that leads."""
        return tensor

    # Rows

    def rows(self, batch: Float[Tensor, "batch width"]) -> Float[Tensor, "rows width"]:
        """This process's part of a batch."""
        return batch

    def mean(self, own: Tensor) -> Tensor:
        """The mean over the batch of what is a mean over this process's rows. No gradient passes."""
        return own

    def reduce(self, gradients: Iterable[Tensor]) -> None:
        """Make gradients of the loss of this process's rows, in place, those of the loss of the batch."""

    # Latents

    def own(self, latents: Int[Tensor, " n"], d_sae: int) -> Int[Tensor, " n_own"]:
        """Which of these latents are among the `d_sae` of this process, counted from its first."""
        return latents

    def to_latents(self, whole: Tensor) -> Tensor:
        """What every process's latents read. Its gradient is the sum of theirs."""
        return whole

    def from_latents(self, part: Tensor) -> Tensor:
        """The sum over all latents of what is a sum over this process's. Its gradient reaches every process."""
        return part

    def among(self, k: int, norms: Float[Tensor, " d_sae"] | None) -> "Callable[[Found], Found]":
        """Of this process's k largest entries of each row by value times norm, those that are among the k of all."""
        return lambda found: found

    def take(self, sae: "SAE") -> "SAE":
        """What this process trains of an SAE."""
        return sae

    def whole(self, sae: "SAE") -> "SAE":
        """On the process that leads, the SAE of which this is what it trains; elsewhere that part as it is."""
        return sae

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the process that leads, whole tensors for parts; elsewhere the parts. Names end in that of a parameter,
        or in that and another word (`optimizer.W_dec.exp_avg`).
        """
        return dict(tensors)

    def part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's parts of whole tensors: the inverse of `gather`."""
        return dict(tensors)

    def norm(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The norm of all gradients together, by the names of their parameters."""
        return torch.nn.utils.get_total_norm(gradients.values())

    # Both

    def largest(self, scores: Float[Tensor, " own"], n: int) -> tuple[Int[Tensor, " chosen"], Float[Tensor, ""]]:
        """Which of this process's scores are among the n largest of all, and the least of those n: 0 if n is."""
        chosen = scores.topk(min(n, len(scores)), sorted=False).indices
        return chosen, scores[chosen].min() if len(chosen) else scores.new_zeros(())

    def complete(self, step: "Step") -> "Step":
        """What came of a step of all processes. The reconstruction remains that of this process's rows."""
        return step

    # The model

    def share(self, model: "HookedModel") -> "tuple[HookedModel, Relay | None]":
        """The model to harvest activations with, and what passes them on to the other processes."""
        return model, None


ALONE = Team()
