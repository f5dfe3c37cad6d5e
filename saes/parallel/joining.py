"""How a process comes to its team: `torchrun` says who there is, PyTorch's process group is the line between them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from saes.config import TrainConfig
from saes.parallel.latents import LatentTeam
from saes.parallel.rows import RowTeam
from saes.team import ALONE, Team

KINDS = {"data": RowTeam, "latents": LatentTeam}


@contextmanager
def joined(config: TrainConfig) -> Iterator[Team]:
    """The team of this process: those that `torchrun` started, or that a process group holds which the caller opened.

    With CUDA each process takes the GPU of its `LOCAL_RANK` and tensors there travel by NCCL, those on the CPU by gloo;
    that is PyTorch's default, and nothing else depends on it. A process that ends closes its connections, by which the
    others learn of it (`saes.parallel.processes`).
    """
    opens = dist.is_torchelastic_launched() and not dist.is_initialized()
    if not (opens and int(os.environ["WORLD_SIZE"]) > 1) and not dist.is_initialized():
        yield ALONE
        return
    device = device_of(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if opens:
        dist.init_process_group()
    try:
        yield KINDS[config.parallel](device)
    finally:
        if opens:
            dist.destroy_process_group()


def device_of(name: str | None) -> torch.device:
    """The device that an option names; of several GPUs, that of this process."""
    if name in (None, "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(name or "cpu")


def device_here(name: str | None) -> torch.device | str | None:
    """The device for a process that has not joined its team yet: what an option names, if it will have none."""
    return device_of(name) if dist.is_torchelastic_launched() else name


def leads() -> bool:
    """Whether this process will lead its team, asked before there is one."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"
