"""One SAE in training, a batch at a time. Knows nothing of models or files."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.architectures import ARCHITECTURES
from saes.config import TrainConfig
from saes.sae import SAE, SAEConfig, Signals, Step, geometric_median, norm_scale, normalized_error
from workbench.errors import TrainingError


@dataclass(frozen=True)
class Metrics:
    """One line of metrics.jsonl; loss, fvu and l0 are those of that step's batch."""

    step: int
    tokens: int
    loss: float
    fvu: float
    l0: float
    dead: float
    """Fraction of latents that have not fired for `dead_after` tokens."""
    lr: float


class Trainer:
    """An SAE in training: its weights, its optimiser, and when each latent last fired."""

    def __init__(self, config: TrainConfig, sample: Float[Tensor, "rows d_in"], metadata: dict[str, Any]) -> None:
        if not sample.isfinite().all():
            raise TrainingError(f"the activations at {config.site} hold NaN or infinity; the model may be damaged")
        self.config = config
        sample = sample.float()
        centre = geometric_median(sample)
        self.scale = norm_scale(sample, centre)
        k = config.k if config.architecture == "topk" else None
        cfg = SAEConfig(sample.shape[1], config.d_sae, k, metadata=metadata)
        self.sae: SAE = ARCHITECTURES[config.architecture](cfg).initialise(centre * self.scale, config.seed)
        self.sae.to(sample.device)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=config.lr, fused=True)
        self.steps = 0
        self.tokens = 0
        self.last_fired = torch.zeros(config.d_sae, dtype=torch.int64, device=sample.device)

    def step(self, rows: Float[Tensor, "rows d_in"]) -> tuple[Float[Tensor, "rows d_in"], Step]:
        """One step of Adam on a batch of raw activations; returns the batch as the SAE saw it, and what came of it."""
        self._set_lr(self.config.lr * schedule(self.steps, self.config))
        x = rows.float() * self.scale
        step = self.sae.train_step(x, self.config, Signals(self.dead.nonzero()[:, 0], self._sparsity()))
        self.optimizer.zero_grad()
        step.loss.backward()
        self.sae.constrain_gradient()
        self.optimizer.step()
        self.sae.constrain()
        self.steps += 1
        self.tokens += len(rows)
        self.last_fired[step.fired] = self.tokens
        return x, step

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Which latents have not fired for `dead_after` tokens."""
        return self.tokens - self.last_fired >= self.config.dead_after

    def folded(self) -> SAE:
        """A copy of the SAE that takes and returns raw activations."""
        copy = ARCHITECTURES[self.config.architecture](self.sae.cfg).to(self.sae.b_dec.device)
        copy.load_state_dict(self.sae.state_dict())
        return copy.requires_grad_(False).fold(self.scale)

    def metrics(self, x: Float[Tensor, "rows d_in"], step: Step) -> Metrics:
        return Metrics(
            step=self.steps,
            tokens=self.tokens,
            loss=step.loss.item(),
            fvu=normalized_error(step.reconstruction, x).item(),
            l0=step.l0.item(),
            dead=self.dead.float().mean().item(),
            lr=self.optimizer.param_groups[0]["lr"],
        )

    @property
    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.sae.parameters())

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, as tensors to save: weights, the optimiser's moments, counts, the scale."""
        own = {
            "steps": torch.tensor(self.steps),
            "tokens": torch.tensor(self.tokens),
            "scale": torch.tensor(self.scale, dtype=torch.float64),
            "last_fired": self.last_fired,
        }
        weights = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        moments = {
            f"optimizer.{name}.{key}": tensor
            for name, parameter in self.sae.named_parameters()
            for key, tensor in self.optimizer.state[parameter].items()
        }
        return own | weights | moments

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a trainer with the same configuration, to the same bits."""
        self.steps, self.tokens, self.scale = (state[name].item() for name in ("steps", "tokens", "scale"))
        self.last_fired.copy_(state["last_fired"])
        self.sae.load_state_dict(_under("sae.", state))
        for name, parameter in self.sae.named_parameters():
            moments = _under(f"optimizer.{name}.", state)
            self.optimizer.state[parameter] = {key: _laid_out(moment, parameter) for key, moment in moments.items()}

    def _sparsity(self) -> float:
        rise = self.config.warm_up * self.config.steps
        return min(1.0, self.steps / rise) if rise else 1.0

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def schedule(step: int, config: TrainConfig) -> float:
    """The learning rate of a step (counted from 0) as a fraction of its peak: up, level, down, all linear."""
    rise, fall = config.warm_up * config.steps, config.decay * config.steps
    up = (step + 1) / rise if rise else 1.0
    down = (config.steps - step) / fall if fall else 1.0
    return min(1.0, up, down)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _laid_out(moment: Tensor, parameter: Tensor) -> Tensor:
    """The moment in memory as its parameter is, which fused Adam takes for granted; a step count as it is."""
    if moment.shape != parameter.shape:
        return moment.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)
