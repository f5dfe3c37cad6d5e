"""A training in a directory, which can be broken off at any moment and gone on with.

config.yaml           the setting, complete
metrics.jsonl         losses and accuracies at each checkpoint
checkpoints/          step-0000100.safetensors, …: the weights
trainer.safetensors   all that decides how the training goes on
"""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import yaml

from workbench.cli.command import read_settings
from workbench.errors import DamagedFile, SettingError
from workbench.files import held, read_tensors, remove_parts, write_tensors, write_text
from workbench.grokking.model import all_logits
from workbench.grokking.setting import Setting
from workbench.grokking.training import Checkpoint, Trainer, scores
from workbench.interrupt import Interrupt
from workbench.metrics_log import MetricsLog, rewind

CONFIG_FILE, METRICS_FILE, STATE_FILE = "config.yaml", "metrics.jsonl", "trainer.safetensors"


def train_in(
    out: Path,
    setting: Setting,
    *,
    every: int,
    resume: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> int:
    """Train in a directory, with a checkpoint every `every` steps; returns how many steps are done.

    Those are less than asked for if Ctrl-C was pressed. `resume` goes on with what is there, if need be for more steps
    than it was begun with. `on_step` is called with the number of steps done and the loss. Raises `SettingError` if the
    directory holds a training that is not to be resumed, or one with another setting, `DamagedFile` if it is damaged.
    """
    if every < 1:
        raise SettingError(f"--checkpoint-every must be at least 1, not {every}")
    if out.exists() and not out.is_dir():
        raise SettingError(f"--out must be a directory, and {out} is a file")
    begun = (out / CONFIG_FILE).exists()
    if begun and not resume:
        raise SettingError(f"{out} already holds a training; go on with it by --resume, or choose another --out")
    trainer = Trainer(setting)
    if begun:
        _check(out, setting)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    with held(out), Interrupt() as interrupt:
        remove_parts(out)
        remove_parts(out / "checkpoints")
        if (out / STATE_FILE).exists():
            trainer.restore(read_tensors(out / STATE_FILE))
            rewind(out / METRICS_FILE, trainer.step)
            for step, path in _checkpoints(out):
                if step > trainer.step:
                    path.unlink()
        write_text(out / CONFIG_FILE, yaml.safe_dump(asdict(setting), sort_keys=False))
        if trainer.step == 0:
            _keep(out, trainer)
        while trainer.step < setting.steps and not interrupt.requested:
            loss = trainer.advance()
            if on_step:
                on_step(trainer.step, loss)
            if trainer.step % every == 0 or trainer.step == setting.steps:
                _keep(out, trainer)
        write_tensors(out / STATE_FILE, trainer.state())
    return trainer.step


def _keep(out: Path, trainer: Trainer) -> None:
    checkpoint = trainer.checkpoint()
    write_tensors(out / "checkpoints" / f"step-{checkpoint.step:07d}.safetensors", checkpoint.weights)
    with MetricsLog(out / METRICS_FILE) as log:
        log.write({"step": checkpoint.step, **vars(scores(all_logits(trainer.adder), trainer.setting))})
    write_tensors(out / STATE_FILE, trainer.state())


def read_run(out: Path) -> tuple[list[Checkpoint], Setting]:
    """The checkpoints of a training, and its setting. Raises `DamagedFile`."""
    setting = _setting(out)
    checkpoints = [Checkpoint(step, read_tensors(path)) for step, path in _checkpoints(out)]
    if not checkpoints:
        raise DamagedFile(f"{out} holds no checkpoints")
    return checkpoints, setting


def _checkpoints(out: Path) -> list[tuple[int, Path]]:
    return sorted(
        (int(path.stem.rpartition("-")[2]), path) for path in (out / "checkpoints").glob("step-*.safetensors")
    )


def _setting(out: Path) -> Setting:
    try:
        return Setting(**read_settings(out / CONFIG_FILE))
    except (SettingError, TypeError):
        raise DamagedFile(f"{out / CONFIG_FILE} is not the setting of a training on addition") from None


def _check(out: Path, setting: Setting) -> None:
    begun = _setting(out)
    for field in fields(Setting):
        was, now = getattr(begun, field.name), getattr(setting, field.name)
        if field.name != "steps" and was != now:
            raise SettingError(
                f"the training in {out} was begun with {field.name} {was}, not {now}; resumed, it keeps it"
            )
