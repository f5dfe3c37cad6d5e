"""What Adam remembers of parameters, as tensors to save, and back."""

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer


def moments(parameters: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state of these parameters, under `optimizer.NAME.KEY`."""
    return {
        f"optimizer.{name}.{key}": tensor
        for name, parameter in parameters.items()
        for key, tensor in optimizer.state[parameter].items()
    }


def restore_moments(parameters: Mapping[str, Tensor], optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimiser of the same parameters what `moments` took."""
    for name, parameter in parameters.items():
        own = under(f"optimizer.{name}.", state)
        optimizer.state[parameter] = {key: moment.to(parameter.device) for key, moment in own.items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
