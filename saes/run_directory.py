"""The directory of a training run: config.yaml, metrics.jsonl, checkpoints/, report.json, and the SAE itself.

report.json is written last: a run that has one is complete.
"""

import glob
import shutil
from pathlib import Path
from typing import Any

import yaml

from saes.config import FinetuneConfig, TrainConfig
from saes.sae import SAE
from saes.storage import CONFIG_FILE, WEIGHTS_FILE, save_sae
from workbench.errors import DamagedFile, SettingError
from workbench.files import read_json, remove_parts, write_json, write_text
from workbench.metrics_log import rewind

SETTINGS_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
REPORT_FILE = "report.json"
TENSORBOARD_DIRECTORY = "tensorboard"
WANDB_FILE = "wandb.json"
_RESULTS = (REPORT_FILE, CONFIG_FILE, WEIGHTS_FILE, "features")
_CONTENTS = (*_RESULTS, SETTINGS_FILE, METRICS_FILE, "checkpoints", TENSORBOARD_DIRECTORY, WANDB_FILE, "wandb")
_FREE = ("out", "device", "cache", "parallel", "log_to", "checkpoint_every", "eval_tokens")
"""Settings in which a resumed run may differ: they decide neither its weights nor its metrics, but for rounding."""


class RunDirectory:
    """One run's directory. Nothing is touched before `open`, so that a run which cannot start leaves no trace."""

    def __init__(self, path: str | Path, overwrite: bool = False, resume: bool = False) -> None:
        """Raises `SettingError` if it already holds an SAE that is neither to be overwritten nor to be completed."""
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"out must be a directory, and {self.path} is a file")
        if (self.path / CONFIG_FILE).exists() and not (overwrite or resume):
            raise SettingError(
                f"{self.path} already holds an SAE; choose another out, or set overwrite to True to replace it"
            )

    @property
    def complete(self) -> bool:
        return (self.path / REPORT_FILE).exists()

    def open(self, config: TrainConfig | FinetuneConfig) -> None:
        """Clear what an earlier run left, its feature index too, and write config.yaml."""
        self._clear(_CONTENTS)
        settings = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        write_text(self.path / SETTINGS_FILE, settings)

    def reopen(self, step: int) -> None:
        """Bring the directory back to how it was at a step: what was written later is taken back."""
        self._clear(_RESULTS)
        rewind(self.path / METRICS_FILE, step)

    def check(self, config: TrainConfig | FinetuneConfig) -> None:
        """Raises `SettingError` if the run was begun with other settings, `DamagedFile` if it does not say which."""
        path = self.path / SETTINGS_FILE
        try:
            begun = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            begun = None
        if not isinstance(begun, dict):
            raise DamagedFile(f"{path} is missing or damaged; it should hold the settings of the run")
        for name, value in config.to_dict().items():
            if name not in _FREE and begun.get(name) != value:
                raise SettingError(
                    f"the run in {self.path} was begun with {name} {begun.get(name)}, not {value}; "
                    "resumed, it keeps its settings"
                )

    def finish(self, sae: SAE) -> None:
        save_sae(sae, self.path)

    def write_report(self, report: dict[str, Any]) -> None:
        write_json(self.path / REPORT_FILE, report)

    def read_report(self) -> dict[str, Any]:
        report = read_json(self.path / REPORT_FILE)
        if not isinstance(report, dict) or "training" not in report:
            raise DamagedFile(f"{self.path / REPORT_FILE} is not the report of a training run")
        return report

    def _clear(self, names: tuple[str, ...]) -> None:
        for name in names:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        remove_parts(self.path.parent, of=glob.escape(self.path.name))
        remove_parts(self.path)
        remove_parts(self.path / "checkpoints")
