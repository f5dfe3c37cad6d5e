"""One SAE in training, a batch at a time. Knows nothing of models or files."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saes.architectures import ARCHITECTURES
from saes.config import TrainConfig
from saes.moments import moments, restore_moments, under
from saes.sae import SAE, Signals, Step, geometric_median, norm_scale, normalized_error
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

    def __init__(
        self,
        config: TrainConfig,
        sample: Float[Tensor, "rows width"],
        metadata: dict[str, Any],
        widths: tuple[int, ...] | None = None,
    ) -> None:
        """`sample` holds rows like those of `step`: the activations of one site or, `widths` saying how many belong to
        each, of several side by side. Raises `TrainingError` if one is not finite.
        """
        if not sample.isfinite().all():
            raise TrainingError(f"the activations at {config.site} hold NaN or infinity; the model may be damaged")
        self.config = config
        widths = widths or (sample.shape[1],)
        parts = sample.float().split(widths, dim=1)
        centres = [geometric_median(part) for part in parts]
        scales = [norm_scale(part, centre) for part, centre in zip(parts, centres, strict=True)]
        self.scale: Float[Tensor, " width"] = torch.cat(
            [torch.full_like(centre, scale) for centre, scale in zip(centres, scales, strict=True)]
        )
        architecture = ARCHITECTURES[config.architecture]
        self.sae: SAE = architecture(architecture.shape(config, widths, metadata))
        self.sae.initialise((torch.cat(centres) * self.scale).cpu(), config.seed).to(sample.device)
        self.sae.screened = config.screening
        self._stored = {name: nn.Parameter(_as_stored(tensor.detach())) for name, tensor in self.sae.named_parameters()}
        self.optimizer = torch.optim.Adam(self._stored.values(), lr=config.lr, fused=True)
        self.steps = 0
        self.tokens = 0
        self.last_fired = torch.zeros(config.d_sae, dtype=torch.int64, device=sample.device)

    def step(self, rows: Float[Tensor, "rows width"]) -> tuple[Float[Tensor, "rows d_out"], Step]:
        """One step of Adam on a batch of raw activations; returns what the SAE was to reconstruct, in its own scale,
        and what came of it.
        """
        self._set_lr(self.config.lr * schedule(self.steps, self.config))
        scaled = rows.float() * self.scale
        step = self.sae.train_step(scaled, self.config, Signals(self.dead.nonzero()[:, 0], self._sparsity()))
        step.loss.backward()
        for name, parameter in self.sae.named_parameters():
            self._stored[name].grad = _as_stored(parameter.grad)
        self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sae.zero_grad()
        self.sae.constrain()
        self.steps += 1
        self.tokens += len(rows)
        self.last_fired[step.fired] = self.tokens
        return self.sae.split(scaled)[1], step

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Which latents have not fired for `dead_after` tokens."""
        return self.tokens - self.last_fired >= self.config.dead_after

    def folded(self) -> SAE:
        """A copy of the SAE that takes and returns raw activations."""
        return self.sae.for_use().fold(self.scale)

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
            "scale": self.scale,
            "last_fired": self.last_fired,
        }
        weights = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        return own | weights | moments(self._stored, self.optimizer)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a trainer with the same configuration, to the same bits."""
        self.steps, self.tokens = (state[name].item() for name in ("steps", "tokens"))
        self.scale.copy_(state["scale"])
        self.last_fired.copy_(state["last_fired"])
        self.sae.load_state_dict(under("sae.", state))
        restore_moments(self._stored, self.optimizer, state)

    def _sparsity(self) -> float:
        rise = self.config.warm_up * self.config.steps
        return min(1.0, self.steps / rise) if rise else 1.0

    def _clip(self) -> None:
        """Have Adam's own pass over the gradients shorten them to the norm `clip`, where they are longer."""
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self._stored.values()])
        self.optimizer.grad_scale = ((norm + 1e-6) / self.config.clip).clamp_min(1.0)

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def schedule(step: int, config: TrainConfig) -> float:
    """The learning rate of a step (counted from 0) as a fraction of its peak: up, level, down, all linear."""
    rise, fall = config.warm_up * config.steps, config.decay * config.steps
    up = (step + 1) / rise if rise else 1.0
    down = (config.steps - step) / fall if fall else 1.0
    return min(1.0, up, down)


def _as_stored(tensor: Tensor) -> Tensor:
    """A view with the order of dimensions that memory has; fused Adam would copy any other to and fro."""
    return tensor if tensor.is_contiguous() else tensor.T
