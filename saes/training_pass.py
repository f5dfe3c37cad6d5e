"""One pass over the model on which SAEs feed: stepped, checkpointed and stopped together."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from saes.checkpoints import Checkpoints, read_facts, restore
from saes.trainer import Metrics
from saes.training_run import TrainingRun
from workbench.activations import ActivationStream
from workbench.errors import TrainingError
from workbench.files import remove_directory, whole_directory
from workbench.interrupt import Interrupt

T = TypeVar("T")


class TrainingPass:
    """Some runs and the stream of activations that they share.

    A run that goes wrong is left behind with a report that says so, and the others go on; the last one ends the pass.
    `facts` are written into each checkpoint. Of a team, every process makes the same pass; one of them writes.
    """

    def __init__(
        self, runs: list[TrainingRun], stream: ActivationStream, checkpoints: Checkpoints, facts: dict[str, Any]
    ) -> None:
        self.runs, self._stream, self.checkpoints, self._facts = runs, stream, checkpoints, facts
        self._team = runs[0].trainer.team
        self.steps = 0
        self.harvest_seconds = 0.0
        self._saved: int | None = None
        """The step of the last checkpoint."""

    @property
    def going(self) -> list[TrainingRun]:
        """The runs that have not gone wrong."""
        return [run for run in self.runs if run.failure is None]

    def seconds(self, run: TrainingRun) -> float:
        """What the run took, or would have taken alone: the harvest, which all share, and its own steps."""
        return self.harvest_seconds + run.seconds

    def open(self) -> None:
        """Begin: clear away what is in the directories of the runs."""
        if not self._team.leads:
            return
        self.checkpoints.remove()
        for run in self.runs:
            run.directory.open(run.trainer.config)
            run.log.open(after=0)

    def close(self) -> None:
        """Close the logs of the runs."""
        for run in self.runs:
            run.log.close()

    def fit(self, on_progress: Callable[[list[Metrics]], None] | None, interrupt: Interrupt) -> bool:
        """Train to the end of the stream or until a process is interrupted, with a checkpoint then and every so many
        steps; returns whether it was interrupted.

        Raises `TrainingError` when no run is left, `OSError` when something cannot be written, `ProcessLost`.
        """
        every = self.runs[0].trainer.config.checkpoint_every
        for rows in self._batches():
            self.steps += 1
            metrics = self._each(lambda run, rows=rows: run.step(rows))
            if on_progress and any(metrics):
                on_progress([one for one in metrics if one])
            interrupted = self._interrupted(interrupt)
            if interrupted or (every and self.steps % every == 0):
                self._save()
            if interrupted:
                return True
        self._save()
        return self._interrupted(interrupt)

    def _interrupted(self, interrupt: Interrupt) -> bool:
        return self._team.total(interrupt.requested) > 0

    def _batches(self) -> Iterator[Float[Tensor, "rows d"]]:
        while True:
            started = time.perf_counter()
            rows = next(self._stream, None)
            self.harvest_seconds += time.perf_counter() - started
            if rows is None:
                return
            yield rows

    def _each(self, act: Callable[[TrainingRun], T]) -> list[T]:
        results = []
        for run in self.going:
            try:
                results.append(act(run))
            except TrainingError as error:
                self._leave(run, str(error))
        return results

    def _leave(self, run: TrainingRun, why: str) -> None:
        good = self._last_good(run)
        run.failure = f"{why}; " + (f"the last good checkpoint is {good}" if good else "no checkpoint had been written")
        if not self.going:
            raise TrainingError(run.failure)
        if self._team.leads:
            run.directory.write_report({"failed": run.failure, "training": self.summary(run)})

    def _last_good(self, run: TrainingRun) -> Path | None:
        """The last checkpoint of a run, brought out of the way of the runs that go on."""
        last = self.checkpoints.last()
        if last is None or not (last / run.name).is_dir():
            return None
        if len(self.runs) == 1:
            return last
        own = run.directory.path / "checkpoints" / last.name
        if self._team.leads:
            remove_directory(own)
            with whole_directory(own) as stage:
                shutil.copytree(last / run.name, stage, dirs_exist_ok=True)
        return own

    def summary(self, run: TrainingRun) -> dict[str, Any]:
        """How far a run came, and how fast."""
        seconds, tokens = self.seconds(run), run.trainer.tokens
        rate = tokens / seconds if seconds else None
        return {"steps": run.trainer.steps, "tokens": tokens, "seconds": seconds, "tokens_per_second": rate}

    def _save(self) -> None:
        if self._saved == self.steps:
            return
        self._each(TrainingRun.check)
        seconds = {
            "harvest_seconds": self.harvest_seconds,
            "run_seconds": {run.name: run.seconds for run in self.going},
        }
        trainers = {run.name: run.trainer for run in self.going}
        if self._team.leads:
            self.checkpoints.write(self.steps, self._facts | seconds, self._stream.state(), trainers)
        else:
            self.checkpoints.follow(trainers.values())
        self._saved = self.steps

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint. Runs that it lacks had gone wrong before. Raises `DamagedFile`."""
        facts = read_facts(checkpoint)
        for run in self.runs:
            if run.name not in facts["run_seconds"]:
                run.failure = run.directory.read_report()["failed"]
        restore(checkpoint, self._stream, {run.name: run.trainer for run in self.going})
        self.steps = self._saved = facts["step"]
        self.harvest_seconds = facts["harvest_seconds"]
        for run in self.going:
            run.seconds = facts["run_seconds"][run.name]
            if self._team.leads:
                run.directory.reopen(self.steps)
                run.log.open(after=self.steps)
