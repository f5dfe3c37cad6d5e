"""Training on addition modulo p: full batches, AdamW, a fixed split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from workbench.errors import DamagedFile, TrainingError
from workbench.grokking.model import Adder, all_pairs
from workbench.grokking.setting import Setting

WARM_UP = 10
BETAS = (0.9, 0.98)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights after so many steps."""

    step: int
    weights: dict[str, Tensor]

    def adder(self, setting: Setting) -> Adder:
        """The model with these weights. Raises `DamagedFile` if they are not those of such a model."""
        adder = Adder(setting)
        shapes = {name: tensor.shape for name, tensor in adder.state_dict().items()}
        if {name: tensor.shape for name, tensor in self.weights.items()} != shapes:
            raise DamagedFile(f"the checkpoint of step {self.step} does not hold the weights of the run's setting")
        adder.load_state_dict(self.weights)
        return adder


def split(setting: Setting) -> tuple[Int[Tensor, " train"], Int[Tensor, " test"]]:
    """Which sums, numbered a·p + b, are trained on, and which are not."""
    random = torch.Generator().manual_seed(setting.seed)
    order = torch.randperm(setting.p**2, generator=random)
    return order[: setting.n_train], order[setting.n_train :]


class Trainer:
    """A training that can be stopped after any step and gone on with, bit for bit."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.step = setting, 0
        self.adder = Adder(setting)
        self._optimizer = torch.optim.AdamW(
            self.adder.parameters(), lr=setting.learning_rate, betas=BETAS, weight_decay=setting.weight_decay
        )
        a, b = all_pairs(setting.p)[split(setting)[0]].T
        self._sums = a, b, (a + b) % setting.p

    def advance(self) -> float:
        """One step; returns the loss before it, in nats. Raises `TrainingError` if that is no number."""
        a, b, target = self._sums
        for group in self._optimizer.param_groups:
            group["lr"] = self.setting.learning_rate * min(1.0, (self.step + 1) / WARM_UP)
        loss = cross_entropy(self.adder(a, b).double(), target)  # in single precision, tiny losses round to 0
        if not loss.isfinite():
            raise TrainingError(f"the loss is {loss.item()} at step {self.step}; try a lower --learning-rate")
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.step += 1
        return loss.item()

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.step, {name: tensor.clone() for name, tensor in self.adder.state_dict().items()})

    def state(self) -> dict[str, Tensor]:
        """All that decides how the training goes on."""
        moments = self._optimizer.state_dict()["state"]
        flat = {f"{number}.{kind}": value for number, kinds in moments.items() for kind, value in kinds.items()}
        return {"step": torch.tensor(self.step), **self.adder.state_dict(), **flat}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state()`. Raises `DamagedFile` if it is not one of such a training."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if "." in name:
                number, kind = name.split(".")
                moments.setdefault(int(number), {})[kind] = value
        groups = self._optimizer.state_dict()["param_groups"]
        try:
            self.adder.load_state_dict({name: state[name] for name in self.adder.state_dict()})
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise DamagedFile(f"this is not the state of such a training: {str(error).splitlines()[0]}") from None


def train(setting: Setting, every: int, on_checkpoint: Callable[[Checkpoint], None] | None = None) -> list[Checkpoint]:
    """Train from random weights; the checkpoints before the first step, after every `every` steps, and at the end."""
    trainer = Trainer(setting)
    checkpoints = [trainer.checkpoint()]
    while trainer.step < setting.steps:
        trainer.advance()
        if trainer.step % every == 0 or trainer.step == setting.steps:
            checkpoints.append(trainer.checkpoint())
            if on_checkpoint:
                on_checkpoint(checkpoints[-1])
    return checkpoints


@dataclass(frozen=True)
class Scores:
    """Loss in nats and accuracy, on the sums that are trained on and on the others."""

    train_loss: float
    test_loss: float
    train_accuracy: float
    test_accuracy: float


def scores(logits: Float[Tensor, "a b p"], setting: Setting) -> Scores:
    """How well logits answer."""
    flat, target = logits.flatten(0, 1).double(), all_pairs(setting.p).sum(1) % setting.p
    losses = cross_entropy(flat, target, reduction="none")
    right = (flat.argmax(-1) == target).double()
    train, test = split(setting)
    return Scores(*(values[part].mean().item() for values in (losses, right) for part in (train, test)))
