"""What Adam remembers of a module's parameters, as tensors to save, and back."""

import torch
from torch import Tensor, nn


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state of every parameter, under `optimizer.NAME.KEY`."""
    return {
        f"optimizer.{name}.{key}": tensor
        for name, parameter in module.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }


def restore_moments(module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Give an optimiser of the same parameters what `moments` took."""
    for name, parameter in module.named_parameters():
        own = under(f"optimizer.{name}.", state)
        optimizer.state[parameter] = {key: _laid_out(moment, parameter) for key, moment in own.items()}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _laid_out(moment: Tensor, parameter: Tensor) -> Tensor:
    """The moment in memory as its parameter is, which fused Adam takes for granted; a step count as it is."""
    if moment.shape != parameter.shape:
        return moment.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)
