"""A team of several processes: what they can do however the work is divided.

Every method is called by all of them, in the same order. Where one ends early, for whatever reason, its connections
close, and the next thing that another asks of the team raises `ProcessLost`; `torchrun` ends those that ask no more.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from saes.parallel.harvest import Relay, SharedModel
from saes.sae import SAE
from saes.team import Team
from workbench.errors import ProcessLost
from workbench.model import HookedModel


class Processes(Team):
    """All processes of the default process group; the first of them leads."""

    def __init__(self, device: torch.device) -> None:
        """`device` is that of this process."""
        self.device, self.rank, self.size = device, dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == 0

    def device_of(self, name: str | None) -> torch.device:
        return self.device

    def wait(self) -> None:
        self.total(0)

    def total(self, number: float) -> float:
        return self.summed(torch.tensor(float(number), dtype=torch.float64)).item()

    def same(self, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        with in_touch():
            dist.broadcast(_bytes(tensor), 0)
        return tensor

    def largest(self, scores: Float[Tensor, " own"], n: int) -> tuple[Int[Tensor, " chosen"], Float[Tensor, ""]]:
        counts = self.stacked(torch.tensor(len(scores)))
        longest, n = int(counts.max()), min(n, int(counts.sum()))
        padded = scores.new_full((longest,), -torch.inf)
        padded[: len(scores)] = scores
        best = self.stacked(padded).flatten().topk(n, sorted=False)
        places = best.indices - self.rank * longest
        chosen = places[(places >= 0) & (places < longest)]
        return chosen, best.values.min() if n else scores.new_zeros(())

    def take(self, sae: SAE) -> SAE:
        sae.team = self
        return sae

    def share(self, model: HookedModel) -> tuple[HookedModel, Relay]:
        shared = SharedModel(model, self)
        return shared, Relay(shared, self)

    def to_leader(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "process *shape"] | None:
        """The tensors of all processes, on the one that leads; None elsewhere."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.leads else None
        with in_touch():
            dist.gather(_bytes(tensor), parts and [_bytes(part) for part in parts])
        return parts and torch.stack(parts)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place."""
        with in_touch():
            dist.all_reduce(tensor)
        return tensor

    def stacked(self, tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "process *shape"]:
        """The tensors of all processes."""
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with in_touch():
            dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)


@contextmanager
def in_touch() -> Iterator[None]:
    """Raises `ProcessLost` for PyTorch's errors of communication."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        what = str(error).splitlines()[0]
        raise ProcessLost(f"another process of this run has ended; see what it printed ({what})") from None


def _bytes(tensor: Tensor) -> Tensor:
    """The tensor's memory, which travels whatever its type."""
    return tensor.view(-1).view(torch.uint8)
