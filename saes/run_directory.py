"""The directory of a training run: config.yaml, metrics.jsonl, checkpoints/, report.json, and the SAE itself."""

import errno
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from saes.config import TrainConfig
from saes.sae import SAE
from saes.storage import CONFIG_FILE, WEIGHTS_FILE, save_sae
from workbench.errors import SettingError
from workbench.files import write_json, write_text

SETTINGS_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
REPORT_FILE = "report.json"
_CONTENTS = (CONFIG_FILE, WEIGHTS_FILE, SETTINGS_FILE, METRICS_FILE, REPORT_FILE, "checkpoints", "features")


class RunDirectory:
    """One run's directory. Nothing is touched before `open`, so that a run which cannot start leaves no trace."""

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        """Raises `SettingError` if the directory already holds an SAE that is not to be overwritten."""
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"out must be a directory, and {self.path} is a file")
        if (self.path / CONFIG_FILE).exists() and not overwrite:
            raise SettingError(
                f"{self.path} already holds an SAE; choose another out, or set overwrite to True to replace it"
            )

    def open(self, config: TrainConfig) -> None:
        """Clear what an earlier run left, its feature index too, and write config.yaml."""
        for name in _CONTENTS:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        settings = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        write_text(self.path / SETTINGS_FILE, settings)

    def checkpoint(self, sae: SAE, step: int) -> None:
        save_sae(sae, self.path / "checkpoints" / f"step_{step:07d}")

    def last_checkpoint(self) -> Path | None:
        return max((self.path / "checkpoints").glob("step_*"), default=None)

    def finish(self, sae: SAE) -> None:
        save_sae(sae, self.path)

    def write_report(self, report: dict[str, Any]) -> None:
        write_json(self.path / REPORT_FILE, report)


class MetricsLog:
    """A JSON-lines file that holds whole lines only: a line that the disk has no room for is taken back."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; NaN and infinity become null. Raises `OSError`, naming the file, if the disk is full."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        line = json.dumps(finite).encode() + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                os.ftruncate(self._file.fileno(), self._file.tell() - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
