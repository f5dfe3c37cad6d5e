"""One SAE among those trained in a pass over the model: stepped, timed, logged, and found out when it goes wrong."""

import time
from dataclasses import asdict

from jaxtyping import Float, Int
from torch import Tensor

from saes.loggers import RunLog
from saes.run_directory import RunDirectory
from saes.trainer import Metrics, Trainer
from workbench.errors import TrainingError


class TrainingRun:
    """A trainer, its directory, and the columns of a row of activations that it reads."""

    def __init__(
        self, name: str, trainer: Trainer, directory: RunDirectory, columns: slice | Int[Tensor, " width"]
    ) -> None:
        self.name, self.trainer, self.directory, self.columns = name, trainer, directory, columns
        self.log = RunLog(directory.path, trainer.config.log_to, trainer.config.to_dict())
        self.seconds = 0.0
        """Time spent in its own steps."""
        self.failure: str | None = None

    def step(self, rows: Float[Tensor, "rows d"]) -> Metrics | None:
        """Train on a batch; its metrics, if they are due. Raises `TrainingError` if there is no use going on."""
        started = time.perf_counter()
        trainer, config = self.trainer, self.trainer.config
        x, step = trainer.step(rows[:, self.columns])
        if not step.loss.isfinite():
            raise TrainingError(self._diverged())
        self.seconds += time.perf_counter() - started
        if trainer.steps % config.log_every:
            return None
        metrics = trainer.metrics(x, step)
        if trainer.team.leads:
            self.log.write(asdict(metrics))
        if metrics.dead == 1:
            raise TrainingError(
                f"every latent is dead at step {trainer.steps}: none has fired for {config.dead_after:,} tokens; "
                f"try a lower lr (now {config.lr:g}) or a weaker sparsity penalty"
            )
        return metrics

    def check(self) -> None:
        """Raises `TrainingError` if a weight is not finite, as it may be one step before the loss shows it."""
        if not self.trainer.finite:
            raise TrainingError(self._diverged())

    def _diverged(self) -> str:
        trainer = self.trainer
        return (
            f"the loss is no longer finite at step {trainer.steps} (lr {trainer.config.lr:g}); "
            "try a lower lr or a longer warm_up"
        )
