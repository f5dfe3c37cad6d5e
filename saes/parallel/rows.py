"""Data parallel: every process has all latents, and a part of each batch."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.parallel.processes import Processes
from saes.sae import Step
from workbench.errors import SettingError


class RowTeam(Processes):
    """A loss is a mean over rows, so that of a batch is the mean over processes, and so are its gradients.

    What is not such a mean (the normalisation of the auxiliary loss, the choice of a whole batch's largest activations)
    the architectures ask of the team. PyTorch's DistributedDataParallel does the first half of this alone.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.row_parts = self.size

    def check(self, config: TrainConfig) -> None:
        if config.batch_size % self.size:
            raise SettingError(
                f"batch_size must be a multiple of the number of processes ({self.size}), not {config.batch_size}"
            )

    def rows(self, batch: Float[Tensor, "batch width"]) -> Float[Tensor, "rows width"]:
        return batch.chunk(self.size)[self.rank]

    def mean(self, own: Tensor) -> Tensor:
        return self.summed(own.detach().clone()) / self.size

    def reduce(self, gradients: Iterable[Tensor]) -> None:
        for gradient in gradients:
            self.summed(gradient).div_(self.size)

    def complete(self, step: Step) -> Step:
        own = torch.cat([torch.stack([step.loss.detach(), step.l0]), step.fired.to(step.loss.dtype)])
        sums = self.summed(own)
        loss, l0 = sums[:2] / self.size
        return replace(step, loss=loss, l0=l0, fired=sums[2:] > 0)
