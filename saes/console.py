"""The commands as a person meets them: progress on standard error, Ctrl-C that saves, a result that prints."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saes import training
from saes.config import EvalConfig, TrainConfig
from saes.judging.judgement import Judgement, judge
from saes.judging.probing import read_labels
from saes.storage import load_sae
from saes.training import Metrics, TrainResult
from workbench.errors import SettingError, TrainingError
from workbench.model import load_model


def train(config: TrainConfig) -> TrainResult:
    """Train with a progress bar. Interrupted, it saves what there is and raises `TrainingError`, which says so."""
    with _progress("training", config.steps * config.batch_size) as (bar, task):

        def show(metrics: Metrics) -> None:
            note = f"FVU {metrics.fvu:.3f}  L0 {metrics.l0:.0f}  dead {metrics.dead:.0%}"
            bar.update(task, completed=metrics.tokens, note=note)

        result = training.train(config, on_progress=show)
    if result.interrupted:
        raise TrainingError(
            f"interrupted after {result.tokens:,} of {config.tokens:,} tokens; "
            f"the SAE as it stood is saved in {result.out}"
        )
    return result


def evaluate(config: EvalConfig) -> Judgement:
    sae, others = load_sae(config.sae), [load_sae(path) for path in config.twins]
    labelled_texts = read_labels(config.labels) if config.labels else None
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
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task(what, total=total, note="")
