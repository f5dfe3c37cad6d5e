"""The commands as a person meets them: progress on standard error, Ctrl-C that saves, a result that prints."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saes import finetuning, training
from saes.comparison import Comparison, compare_runs
from saes.config import CompareConfig, EvalConfig, FinetuneConfig, SweepConfig, TrainConfig
from saes.finetuner import FinetuneMetrics
from saes.finetuning import FinetuneResult
from saes.judging.judgement import Judgement, judge
from saes.origin import origin
from saes.parallel.joining import device_here, leads
from saes.run_directory import SETTINGS_FILE
from saes.storage import load_sae
from saes.sweep import read_sweep
from saes.training import Metrics, TrainResult
from workbench.corpus import open_held_out
from workbench.errors import TrainingError
from workbench.model import load_model
from workbench.texts import read_labels

if TYPE_CHECKING:
    import plotly.graph_objects as go


def train(config: TrainConfig) -> TrainResult | None:
    """Train with a progress bar. Interrupted, it saves and raises `TrainingError`, which says how to go on.

    Of several processes one shows the bar, and says what came of it.
    """
    with _progress("training", config.steps * config.batch_size) as (bar, task):

        def show(metrics: Metrics) -> None:
            note = f"FVU {metrics.fvu:.3f}  L0 {metrics.l0:.0f}  dead {metrics.dead:.0%}"
            bar.update(task, completed=metrics.tokens, note=note)

        result = training.train(config, on_progress=show)
    if not leads():
        return None
    if result.interrupted:
        settings = shlex.quote(str(result.out / SETTINGS_FILE))
        raise TrainingError(
            f"interrupted after {result.tokens:,} of {config.tokens:,} tokens, which are kept; "
            f"to go on: workbench sae train --config {settings} --resume"
        )
    return result


def sweep(config: SweepConfig) -> Comparison | None:
    """Train with a progress bar, write pareto.html and return the comparison. Interrupted, it does as `train` does."""
    asked = read_sweep(config)
    model = load_model(asked.model, device=device_here(asked.device))
    configs, home = asked.configs(model.sites), asked.home
    total = configs[0].steps * configs[0].batch_size
    with _progress(f"training {len(configs)} SAEs", total) as (bar, task):

        def show(metrics: list[Metrics]) -> None:
            best = min(one.fvu for one in metrics)
            bar.update(task, completed=metrics[0].tokens, note=f"best FVU {best:.3f}  {len(metrics)} SAEs")

        results = training.train_together(configs, home, model, on_progress=show)
    if not leads():
        return None
    if results[0].interrupted:
        tokens = max(result.tokens for result in results)
        raise TrainingError(
            f"interrupted after {tokens:,} of {configs[0].tokens:,} tokens, which are kept; "
            f"to go on: workbench sae sweep {shlex.quote(str(config.file))} --out {shlex.quote(str(home))} --resume"
        )
    from workbench.figures.save import save_figures

    comparison = compare(CompareConfig((home,)))
    save_figures(
        home / "pareto.html",
        [draw(comparison)],
        "workbench sae sweep",
        f"{len(configs)} sparse autoencoders, trained together",
    )
    return comparison


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune with a progress bar. Interrupted, it does as `train` does."""
    with _progress("fine-tuning", config.steps) as (bar, task):

        def show(metrics: FinetuneMetrics) -> None:
            note = f"KL {metrics.kl:.4f}  FVU {metrics.fvu:.3f}  L0 {metrics.l0:.1f}"
            bar.update(task, completed=metrics.step, note=note)

        result = finetuning.finetune(config, on_progress=show)
    if result.interrupted:
        raise TrainingError(
            f"interrupted after {result.steps:,} of {config.steps:,} steps, which are kept; "
            f"to go on: workbench sae finetune --config {shlex.quote(str(result.out / SETTINGS_FILE))} --resume"
        )
    return result


def compare(config: CompareConfig) -> Comparison:
    return compare_runs(config.runs)


def draw(comparison: Comparison) -> "go.Figure":
    """L0 against loss recovered."""
    from workbench.figures.pareto import pareto

    measured = [row for row in comparison.rows if row.loss_recovered is not None]
    groups = [f"{row.architecture} {row.d_sae:,}" for row in measured]
    points = [(row.l0, row.loss_recovered) for row in measured]
    return pareto([row.name for row in measured], groups, points)


def evaluate(config: EvalConfig) -> Judgement:
    sae, others = load_sae(config.sae), [load_sae(path) for path in config.twins]
    labelled_texts = read_labels(config.labels) if config.labels else None
    name, source = origin(sae, config.sae, config.model, config.corpus)
    trained = sae.cfg.metadata
    model = load_model(name, device=config.device)
    if trained.get("model_fingerprint", model.fingerprint) != model.fingerprint:
        print(f"workbench: {name} is not the model this SAE was trained on: its weights differ", file=sys.stderr)
    context = config.context or trained.get("context_size") or 128
    corpus = open_held_out(source, model.tokenizer, context=context)
    with _progress("measuring", config.tokens) as (bar, task):
        return judge(
            sae.to(model.device),
            model,
            corpus,
            config.tokens,
            others=[other.to(model.device) for other in others],
            labelled_texts=labelled_texts,
            seed=config.seed,
            on_progress=lambda what, done: bar.update(task, description=what, completed=done),
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
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (leads() and console.is_terminal)) as bar:
        yield bar, bar.add_task(what, total=total, note="")
