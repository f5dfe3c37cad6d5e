"""One SAE in training, a batch at a time. Knows nothing of models or files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saes.architectures import ARCHITECTURES
from saes.config import TrainConfig
from saes.sae import SAE, Signals, Step, geometric_median, norm_scale, normalized_error
from saes.team import ALONE, Team
from workbench.errors import TrainingError
from workbench.moments import moments, restore_moments, under


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
        team: Team = ALONE,
    ) -> None:
        """`sample` holds rows like those of `step`: the activations of one site or, `widths` saying how many belong to
        each, of several side by side. Every process of a `team` has a trainer, and calls its methods as the others do.
        Raises `TrainingError` if an activation is not finite.
        """
        if not sample.isfinite().all():
            raise TrainingError(f"the activations at {config.site} hold NaN or infinity; the model may be damaged")
        self.config, self.team = config, team
        widths = widths or (sample.shape[1],)
        parts = sample.float().split(widths, dim=1)
        centres = [geometric_median(part) for part in parts]
        scales = [norm_scale(part, centre) for part, centre in zip(parts, centres, strict=True)]
        self.scale: Float[Tensor, " width"] = team.same(
            torch.cat([torch.full_like(centre, scale) for centre, scale in zip(centres, scales, strict=True)])
        )
        architecture = ARCHITECTURES[config.architecture]
        sae = architecture(architecture.shape(config, widths, metadata))
        sae.initialise(team.same(torch.cat(centres) * self.scale).cpu(), config.seed)
        self.sae: SAE = team.take(sae).to(sample.device)
        self.sae.screened = config.screening
        self._stored = {name: nn.Parameter(_turned(own.detach(), own)) for name, own in self.sae.named_parameters()}
        self.optimizer = torch.optim.Adam(self._stored.values(), lr=config.lr, fused=True)
        self.steps = 0
        self.tokens = 0
        self.last_fired = torch.zeros(config.d_sae, dtype=torch.int64, device=sample.device)

    def step(self, batch: Float[Tensor, "batch width"]) -> tuple[Float[Tensor, "rows d_out"], Step]:
        """One step of Adam on a batch of raw activations; returns what the SAE was to reconstruct, in its own scale,
        and what came of it: of those rows of the batch that are this process's.
        """
        self._set_lr(self.config.lr * schedule(self.steps, self.config))
        scaled = self.team.rows(batch).float() * self.scale
        step = self.sae.train_step(scaled, self.config, Signals(self.dead.nonzero()[:, 0], self._sparsity()))
        step.loss.backward()
        self.team.reduce(parameter.grad for parameter in self.sae.parameters())
        step = self.team.complete(step)
        self._descend()
        self.sae.constrain()
        self.steps += 1
        self.tokens += len(batch)
        self.last_fired[step.fired] = self.tokens
        return self.sae.split(scaled)[1], step

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Which latents have not fired for `dead_after` tokens."""
        return self.tokens - self.last_fired >= self.config.dead_after

    def folded(self) -> SAE:
        """A copy of the SAE that takes and returns raw activations; whole where the process leads."""
        return self.team.whole(self.sae).for_use().fold(self.scale)

    def metrics(self, x: Float[Tensor, "rows d_in"], step: Step) -> Metrics:
        return Metrics(
            step=self.steps,
            tokens=self.tokens,
            loss=step.loss.item(),
            fvu=normalized_error(step.reconstruction, x, self.team).item(),
            l0=step.l0.item(),
            dead=self.dead.float().mean().item(),
            lr=self.optimizer.param_groups[0]["lr"],
        )

    @property
    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        own = all(bool(parameter.isfinite().all()) for parameter in self.sae.parameters())
        return self.team.total(not own) == 0

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, as tensors to save: weights, the optimiser's moments, counts, the scale. They are whole
        where the process leads, so that what one team saved any other can restore.
        """
        own = {
            "steps": torch.tensor(self.steps),
            "tokens": torch.tensor(self.tokens),
            "scale": self.scale,
            "last_fired": self.last_fired,
        }
        weights = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        own_moments = self._turned_moments(moments(self._stored, self.optimizer))
        return own | self.team.gather(weights | own_moments)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a trainer with the same configuration: in the same team, to the same bits."""
        state = self.team.part(state)
        self.steps, self.tokens = (state[name].item() for name in ("steps", "tokens"))
        self.scale.copy_(state["scale"])
        self.last_fired.copy_(state["last_fired"])
        self.sae.load_state_dict(under("sae.", state))
        restore_moments(self._stored, self.optimizer, self._turned_moments(state))

    def _turned_moments(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The moments in a state, from the order of dimensions that parameters have to that of memory; or back."""
        own = {name: tensor for name, tensor in state.items() if name.startswith("optimizer.")}
        parameters = dict(self.sae.named_parameters())
        return {name: _turned(tensor, parameters[name.split(".")[1]]).contiguous() for name, tensor in own.items()}

    def _sparsity(self) -> float:
        rise = self.config.warm_up * self.config.steps
        return min(1.0, self.steps / rise) if rise else 1.0

    def _descend(self) -> None:
        """Adam's step, which in its own pass shortens gradients to the norm `clip`, where they are longer."""
        parameters = dict(self.sae.named_parameters())
        for name, parameter in parameters.items():
            self._stored[name].grad = _turned(parameter.grad, parameter)
        norm = self.team.norm({name: parameter.grad for name, parameter in parameters.items()})
        self.optimizer.grad_scale = ((norm + 1e-6) / self.config.clip).clamp_min(1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sae.zero_grad()

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def schedule(step: int, config: TrainConfig) -> float:
    """The learning rate of a step (counted from 0) as a fraction of its peak: up, level, down, all linear."""
    rise, fall = config.warm_up * config.steps, config.decay * config.steps
    up = (step + 1) / rise if rise else 1.0
    down = (config.steps - step) / fall if fall else 1.0
    return min(1.0, up, down)


def _turned(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What has the shape of a parameter, with its dimensions in the order of memory; or back.

    Adam's fused pass would copy whatever is not so ordered to and fro.
    """
    return tensor if parameter.is_contiguous() or tensor.ndim < 2 else tensor.T
