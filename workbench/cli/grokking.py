"""`workbench grokking`: train on addition modulo p until it groks, and take apart what was learned."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.command import Command
from workbench.grokking.setting import Setting

if TYPE_CHECKING:
    from workbench.grokking.report import Report

command = Command(
    summary="Train a transformer on modular addition until it groks, and say how it adds",
    options="workbench.cli.grokking:GrokkingOptions",
    run="workbench.cli.grokking:run",
)


@dataclass(frozen=True, kw_only=True)
class GrokkingOptions(Setting):
    """Train a one-layer transformer on a + b mod p until it groks, and take apart what it has learned.

    The setting of Nanda et al. 2023: --p 113 --fraction 0.3 --d-model 128 --d-mlp 512 --learning-rate 0.001
    --weight-decay 1 --steps 20000 --checkpoint-every 100.
    """

    out: Path
    """Directory for the training: config.yaml, metrics.jsonl, checkpoints."""
    checkpoint_every: int = 25
    """Steps from one checkpoint to the next."""
    resume: bool = False
    """Go on with the training in OUT."""


def run(options: GrokkingOptions) -> Report:
    """Train with a progress bar. Interrupted, it saves and raises `TrainingError`, which says how to go on."""
    from workbench.cli.progress import progress_bar
    from workbench.errors import TrainingError
    from workbench.grokking.report import report
    from workbench.grokking.run import CONFIG_FILE, read_run, train_in

    setting = Setting(**{field.name: getattr(options, field.name) for field in fields(Setting)})
    with progress_bar(setting.steps) as update:
        done = train_in(
            options.out,
            setting,
            every=options.checkpoint_every,
            resume=options.resume,
            on_step=lambda step, loss: update(completed=step, description=f"training loss {loss:.2e}"),
        )
    if done < setting.steps:
        config, out = (shlex.quote(str(path)) for path in (options.out / CONFIG_FILE, options.out))
        raise TrainingError(
            f"interrupted after {done:,} of {setting.steps:,} steps, which are kept; "
            f"to go on: workbench grokking --config {config} --out {out} --resume"
        )
    return report(*read_run(options.out))
