"""Trained SAEs side by side, by what their reports say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saes.route import Route
from saes.run_directory import REPORT_FILE, SETTINGS_FILE
from saes.storage import CONFIG_FILE
from workbench.errors import DamagedFile, SettingError
from workbench.files import read_json


@dataclass(frozen=True)
class Row:
    """One SAE. What its report does not say is None."""

    name: str
    site: str
    architecture: str
    d_sae: int
    l0: float | None
    """Mean active latents per token."""
    fvu: float | None
    """Fraction of variance unexplained."""
    loss_recovered: float | None
    """1 for an SAE that costs the model nothing, 0 for one no better than zeros."""
    dead: float | None
    """Fraction of latents that never fired."""
    tokens_per_second: float | None
    """Harvest and steps of this SAE, were it trained alone."""
    text: str | None
    """What it was measured on."""
    note: str | None
    """Why there are no figures."""


@dataclass(frozen=True)
class Comparison:
    """SAEs in the order of the site they read, then of L0."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        head = f"{'':<{width}} {'L0':>8} {'FVU':>8} {'recovered':>10} {'dead':>7} {'tokens/s':>9}"
        lines = [f"{row.name:<{width}} " + (row.note or _figures(row)) for row in self.rows]
        texts = {row.text for row in self.rows if row.text}
        if len(texts) == 1:
            lines.append(f"\nMeasured on {texts.pop()}.")
        elif texts:
            lines.append("\nThese were measured on different texts, so their figures do not compare exactly.")
        return "\n".join([head.rstrip(), *lines])


def _figures(row: Row) -> str:
    def cell(value: float | None, form: str, width: int) -> str:
        return f"{'n/a' if value is None else format(value, form):>{width}}"

    return " ".join(
        [
            cell(row.l0, ".1f", 8),
            cell(row.fvu, ".4f", 8),
            cell(row.loss_recovered, ".2%", 10),
            cell(row.dead, ".1%", 7),
            cell(row.tokens_per_second, ",.0f", 9),
        ]
    )


def compare_runs(directories: Sequence[Path]) -> Comparison:
    """Read the reports of runs; the directory of a sweep stands for all of its runs.

    Raises `SettingError` for a directory that holds no run, `DamagedFile` for one whose files are broken.
    """
    if not directories:
        raise SettingError("name the directories of some SAEs to compare")
    runs = [run for directory in directories for run in _runs(directory)]
    rows = [_row(run, name) for run, name in zip(runs, _names(runs), strict=True)]
    return Comparison(tuple(sorted(rows, key=lambda row: (row.site, row.l0 is None, row.l0 or 0.0, row.name))))


def _runs(directory: Path) -> list[Path]:
    if _is_run(directory):
        return [directory]
    found = sorted(path for path in directory.glob("*") if _is_run(path))
    if not found:
        raise SettingError(f"{directory} holds no SAE and no runs")
    return found


def _is_run(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (CONFIG_FILE, SETTINGS_FILE))


def _names(runs: list[Path]) -> list[str]:
    """Each directory's own name; its whole path where two are called the same."""
    names = [run.name for run in runs]
    return [str(run) if names.count(run.name) > 1 else run.name for run in runs]


def _row(run: Path, name: str) -> Row:
    settings = _settings(run)
    report = read_json(run / REPORT_FILE) if (run / REPORT_FILE).is_file() else {}
    measured = "fvu" in report
    missing = "has no report: it is not complete" if (run / SETTINGS_FILE).is_file() else "has no report"
    return Row(
        name=name,
        site=settings["site"],
        architecture=settings["architecture"],
        d_sae=settings["d_sae"],
        **{figure: report.get(figure) for figure in ("l0", "fvu", "loss_recovered", "dead")},
        tokens_per_second=report.get("training", {}).get("tokens_per_second"),
        text=f"{report['n_tokens']:,} tokens of {report['corpus']}" if measured else None,
        note=None if measured else report.get("failed", missing),
    )


def _settings(run: Path) -> dict[str, Any]:
    """Site, architecture and d_sae, as they were trained where config.yaml says, or else as saved.

    That of a fine-tuned SAE names the SAE that it began with.
    """
    path = run / SETTINGS_FILE
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {"sae": run}
        if "sae" in settings:
            path = (run if (run / CONFIG_FILE).is_file() else Path(settings["sae"])) / CONFIG_FILE
            saved = read_json(path)
            settings = saved | {"site": str(Route.of(saved.get("metadata") or {}))}
        return {name: settings[name] for name in ("site", "architecture", "d_sae")}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise DamagedFile(f"{path} does not say what the SAE is") from None
