"""Fine-tuning under way: contexts come in, steps are made, timed, logged and checkpointed."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saes.checkpoints import Checkpoints, read_facts, restore
from saes.finetuner import FinetuneMetrics, Finetuner
from saes.loggers import RunLog
from workbench.corpus import START, Corpus, Position
from workbench.errors import TrainingError
from workbench.interrupt import Interrupt


class Contexts:
    """Batches of contexts without end, in an order that can be saved and gone on with."""

    def __init__(self, corpus: Corpus, batch_size: int, skip: tuple[int, ...]) -> None:
        self._corpus, self._batch_size, self._skip = corpus, batch_size, skip
        self._position = START

    def __iter__(self) -> Iterator[tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]]:
        """Tokens, and which of them are text."""
        for batch in self._corpus.batches(self._batch_size, self._position, repeat=True):
            self._position = batch.position
            yield batch.tokens, batch.mask(self._skip)

    def first(self) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """The first batch, which will be served all the same."""
        return next(iter(Contexts(self._corpus, self._batch_size, self._skip)))

    def state(self) -> dict[str, Tensor]:
        return {"position": torch.tensor(self._position)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._position = Position(*state["position"].tolist())


class FinetuneRun:
    """A fine-tuner fed with contexts: timed, logged, checkpointed, stopped, and found out when it goes wrong."""

    def __init__(
        self, finetuner: Finetuner, contexts: Contexts, checkpoints: Checkpoints, facts: dict[str, str]
    ) -> None:
        self.finetuner, self.contexts, self.checkpoints, self._facts = finetuner, contexts, checkpoints, facts
        self.seconds = 0.0

    def fit(self, log: RunLog, on_progress: Callable[[FinetuneMetrics], None] | None, interrupt: Interrupt) -> None:
        """Fine-tune to the end or until interrupted, with a checkpoint then and every so many steps.

        Raises `TrainingError` if the loss is no longer finite, `OSError` when something cannot be written.
        """
        config = self.finetuner.config
        for tokens, keep in islice(self.contexts, config.steps - self.finetuner.steps):
            started = time.perf_counter()
            metrics = self.finetuner.step(tokens, keep)
            self.seconds += time.perf_counter() - started
            if not math.isfinite(metrics.loss):
                raise TrainingError(self._diverged())
            if metrics.step % config.log_every == 0:
                log.write(asdict(metrics))
                if on_progress:
                    on_progress(metrics)
            if interrupt.requested or (config.checkpoint_every and metrics.step % config.checkpoint_every == 0):
                self._save()
            if interrupt.requested:
                return
        self._save()

    def _save(self) -> None:
        step = self.finetuner.steps
        if not self.finetuner.finite:
            raise TrainingError(self._diverged())
        if not self.checkpoints.at(step).exists():
            facts = self._facts | {"seconds": self.seconds}
            self.checkpoints.write(step, facts, self.contexts.state(), {".": self.finetuner})

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint. Raises `DamagedFile`."""
        self.seconds = read_facts(checkpoint)["seconds"]
        restore(checkpoint, self.contexts, {".": self.finetuner})

    def summary(self) -> dict[str, Any]:
        """How far the run came, and how fast."""
        return {"steps": self.finetuner.steps, "tokens": self.finetuner.tokens, "seconds": self.seconds}

    def _diverged(self) -> str:
        last, lr = self.checkpoints.last(), self.finetuner.config.lr
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written"
        return f"the loss is no longer finite at step {self.finetuner.steps} (lr {lr:g}); try a lower lr; {kept}"
