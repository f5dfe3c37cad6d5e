"""Metrics to TensorBoard and to Weights & Biases, beside metrics.jsonl, for who asks for them.

Neither is imported, or need be installed, otherwise. What they write lies in the directory of the run, where a resumed
run finds it and goes on with the same series.
"""

import importlib
import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from saes.run_directory import METRICS_FILE, TENSORBOARD_DIRECTORY, WANDB_FILE
from workbench.errors import DamagedFile, SettingError, TrainingError
from workbench.files import read_json, write_json
from workbench.metrics_log import MetricsLog

PROJECT = "interp-workbench"
"""What runs are filed under at Weights & Biases, unless WANDB_PROJECT says otherwise."""


class Logger(Protocol):
    """Where the metrics of one run go."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/`, as `tensorboard --logdir` reads them."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], after: int) -> None:
        """Steps beyond `after` that an earlier sitting wrote are struck out."""
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(directory / TENSORBOARD_DIRECTORY, purge_step=after + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases, or with WANDB_MODE=offline on disk; its id is kept in `wandb.json`.

    A resumed run goes on under the same id. Steps that were logged twice are left there as they came first, which on
    the CPU is what they were again.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], after: int) -> None:
        """Raises `TrainingError` if it cannot be reached, `DamagedFile` if the id cannot be read."""
        wandb = importlib.import_module("wandb")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=directory.name,
                dir=directory,
                id=_run_id(directory / WANDB_FILE),
                resume="allow",
                reinit="create_new",
                config=dict(settings),
            )
        except wandb.Error as error:
            what = str(error).splitlines()[0]
            raise TrainingError(f"wandb: {what}; WANDB_MODE=offline logs to the disk, with no account") from None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def _run_id(path: Path) -> str:
    """The id that a run was begun under; a new one is drawn and kept."""
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(8)})
    kept = read_json(path)
    if not isinstance(kept, dict) or not isinstance(kept.get("id"), str):
        raise DamagedFile(f"{path} does not hold the id of a run; delete it, and the run goes on as a new one")
    return kept["id"]


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], int], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def check_loggers(names: Sequence[str]) -> None:
    """Raises `SettingError`, which says what to install, if the package of a logger is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SettingError(f"log_to {name} needs a package that is not installed: pip install {name}")


class RunLog:
    """metrics.jsonl, and the loggers that a run asks for."""

    def __init__(self, directory: Path, names: Sequence[str], settings: Mapping[str, Any]) -> None:
        self._directory, self._names, self._settings = directory, names, settings
        self._loggers: list[Logger] = []

    def open(self, after: int) -> None:
        """Begin, or go on after a step."""
        self._loggers = [LOGGERS[name](self._directory, self._settings, after) for name in self._names]

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of a step to all of them. Raises `OSError`, naming the file, if the disk is full."""
        with MetricsLog(self._directory / METRICS_FILE) as log:
            log.write(dict(metrics))
        figures = {name: value for name, value in metrics.items() if name != "step"}
        for logger in self._loggers:
            logger.write(metrics["step"], figures)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()
        self._loggers = []
