"""The commands as a person meets them: progress on standard error, Ctrl-C that saves, a result that prints."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saes import evaluation, training
from saes.config import EvalConfig, TrainConfig
from saes.run_directory import SETTINGS_FILE
from saes.storage import load_sae
from saes.training import Metrics, TrainResult
from workbench.errors import SettingError, TrainingError
from workbench.model import load_model


def train(config: TrainConfig) -> TrainResult:
    """Train with a progress bar. Interrupted, it saves and raises `TrainingError`, which says how to go on."""
    with _progress("training", config.steps * config.batch_size) as (bar, task):

        def show(metrics: Metrics) -> None:
            note = f"FVU {metrics.fvu:.3f}  L0 {metrics.l0:.0f}  dead {metrics.dead:.0%}"
            bar.update(task, completed=metrics.tokens, note=note)

        result = training.train(config, on_progress=show)
    if result.interrupted:
        settings = shlex.quote(str(result.out / SETTINGS_FILE))
        raise TrainingError(
            f"interrupted after {result.tokens:,} of {config.tokens:,} tokens, which are kept; "
            f"to go on: workbench sae train --config {settings} --resume"
        )
    return result


def evaluate(config: EvalConfig) -> evaluation.SAEReport:
    sae = load_sae(config.sae)
    trained = sae.cfg.metadata
    name = config.model or trained.get("model_name")
    source = config.corpus or trained.get("dataset_path")
    if not (name and source and sae.site):
        missing = "its site" if not sae.site else "model" if not name else "corpus"
        raise SettingError(f"{config.sae} does not say {missing}; give it as an option")
    model = load_model(name, device=config.device)
    if trained.get("model_fingerprint", model.fingerprint) != model.fingerprint:
        print(f"workbench: {name} is not the model this SAE was trained on: its weights differ", file=sys.stderr)
    context = config.context or trained.get("context_size") or 128
    corpus = training.open_held_out(source, model, context=context)
    with _progress("measuring", config.tokens) as (bar, task):
        return evaluation.evaluate(
            sae.to(model.device), model, corpus, config.tokens, lambda done: bar.update(task, completed=done)
        )


@contextmanager
def _progress(what: str, total: int) -> Iterator[tuple[Progress, int]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task(what, total=total, note="")
