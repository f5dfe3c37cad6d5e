"""Latent parallel: every process has all rows, and a part of the latents, with their weights and optimiser's moments.

What an SAE computes for a latent needs that latent alone, but in four places: the choice of the largest, where the
candidates' scores are gathered; the reconstruction, which is a sum over latents; the gradient of the decoder's bias as
it is subtracted from the input; and the norm of all gradients. The pair `to_latents`, `from_latents` is the pair of
conjugate operators f, g of Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053).

A sharded parameter is a `DTensor` in all but the arithmetic within a process: sparse products and Adam's pass work on
its local tensor, and whatever concerns the whole (norms, checkpoints, the saved SAE) is asked of the DTensor.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from saes.config import TrainConfig
from saes.parallel.processes import Processes
from saes.sae import SAE, Step
from saes.sparse import Pattern
from workbench.errors import SettingError

Found = tuple[Float[Tensor, " entries"], Pattern]

DIMENSIONS = {"W_enc": 1, "W_dec": 0, "b_enc": 0, "threshold": 0}
"""The dimension that counts latents, of the parameters that have one."""


class LatentTeam(Processes):
    """Each process has as many latents as any other, in order.

    A whole parameter is in memory where an SAE is begun (on every process, as the same random numbers for any number of
    them) and where it is saved: on a device only one at a time, and on the CPU of the process that leads.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.latent_parts = self.size
        self._mesh = init_device_mesh(device.type, (self.size,))

    def check(self, config: TrainConfig) -> None:
        if config.d_sae % self.size:
            raise SettingError(f"d_sae must be a multiple of the number of processes ({self.size}), not {config.d_sae}")

    def own(self, latents: Int[Tensor, " n"], d_sae: int) -> Int[Tensor, " n_own"]:
        places = latents - self.rank * d_sae
        return places[(places >= 0) & (places < d_sae)]

    def to_latents(self, whole: Tensor) -> Tensor:
        return _ToLatents.apply(whole, self)

    def from_latents(self, part: Tensor) -> Tensor:
        return _FromLatents.apply(part, self)

    def among(self, k: int, norms: Float[Tensor, " d_sae"] | None) -> Callable[[Found], Found]:
        def choose(found: Found) -> Found:
            values, pattern = found
            scores = values if norms is None else values * norms[pattern.indices]
            n_rows, rows = len(pattern.offsets) - 1, pattern.rows
            places = torch.arange(len(rows), device=rows.device) - pattern.offsets[rows]
            own = scores.new_full((n_rows, k), -torch.inf)
            own[rows, places] = scores
            everyone = self.stacked(own).transpose(0, 1).reshape(n_rows, -1)
            best = torch.zeros_like(everyone, dtype=torch.bool)
            best.scatter_(1, everyone.topk(k, sorted=False).indices, True)
            chosen = best[rows, self.rank * k + places].nonzero()[:, 0]
            offsets = torch.searchsorted(chosen, pattern.offsets)
            return values[chosen], Pattern(pattern.indices[chosen], offsets, pattern.d_sae)

        return choose

    def take(self, sae: SAE) -> SAE:
        part = type(sae)(replace(sae.cfg, d_sae=sae.cfg.d_sae // self.size))
        part.load_state_dict(self.part(sae.state_dict()))
        return super().take(part)

    def whole(self, sae: SAE) -> SAE:
        tensors = self.gather(sae.state_dict())
        if not self.leads:
            return sae
        whole = type(sae)(replace(sae.cfg, d_sae=sae.cfg.d_sae * self.size))
        whole.load_state_dict(tensors)
        return whole

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._whole(name, tensor) for name, tensor in tensors.items()}

    def part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor if (dim := _dimension(name, tensor)) is None else tensor.chunk(self.size, dim)[self.rank]
            for name, tensor in tensors.items()
        }

    def norm(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        whole = [self._distributed(name, gradient) for name, gradient in gradients.items()]
        return torch.nn.utils.get_total_norm(whole).full_tensor()

    def complete(self, step: Step) -> Step:
        own = torch.cat([step.l0[None], step.fired.to(step.l0.dtype)])
        everyone = self.stacked(own)
        return replace(step, loss=step.loss.detach(), l0=everyone[:, 0].sum(), fired=everyone[:, 1:].flatten() > 0)

    def _whole(self, name: str, tensor: Tensor) -> Tensor:
        if _dimension(name, tensor) is None:
            return tensor
        whole = self._distributed(name, tensor).full_tensor()
        return whole.cpu() if self.leads else tensor

    def _distributed(self, name: str, tensor: Tensor) -> DTensor:
        dim = _dimension(name, tensor)
        placement = Replicate() if dim is None else Shard(dim)
        return DTensor.from_local(tensor, self._mesh, [placement], run_check=False)


def _dimension(name: str, tensor: Tensor) -> int | None:
    """The dimension of a parameter, or of a moment of one, that counts latents."""
    dim = next((DIMENSIONS[part] for part in name.split(".") if part in DIMENSIONS), None)
    return None if dim is None or tensor.ndim <= dim else dim


class _ToLatents(torch.autograd.Function):
    @staticmethod
    def forward(ctx, whole, team):
        ctx.team = team
        return whole.view_as(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return ctx.team.summed(grad.clone()), None


class _FromLatents(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part, team):
        return team.summed(part.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad, None
