"""Training: activations stream in, an SAE and the record of how it came about go out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.evaluation import SAEReport, evaluate
from saes.interrupt import Interrupt
from saes.run_directory import METRICS_FILE, MetricsLog, RunDirectory
from saes.trainer import Metrics, Trainer
from workbench.activations import shuffled_activations
from workbench.corpus import Corpus, open_corpus
from workbench.errors import CorpusError, SettingError, TrainingError
from workbench.model import HookedModel, load_model
from workbench.sites import expand

STATISTICS_ROWS = 16_384
"""Activations from which the input's scale and the decoder's bias are estimated."""

HELD_OUT_SEED = 2**31 - 1
"""Orders a corpus without a held-out part when an SAE is measured on it."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. `report` is None if the run was interrupted, or had no held-out text to be measured on."""

    out: Path
    steps: int
    tokens: int
    seconds: float
    interrupted: bool
    report: SAEReport | None

    def __str__(self) -> str:
        rate = self.tokens / self.seconds
        head = f"Trained on {self.tokens:,} tokens in {self.seconds:.0f} s ({rate:,.0f} tokens/s); saved in {self.out}"
        return head if self.report is None else f"{head}\n\n{self.report}"


def train(
    config: TrainConfig,
    model: HookedModel | None = None,
    corpus: Corpus | None = None,
    held_out: Corpus | None = None,
    on_progress: Callable[[Metrics], None] | None = None,
    interrupt: Interrupt | None = None,
) -> TrainResult:
    """Train an SAE as `config` says, save it in `config.out`, and measure it on held-out text.

    Model and corpora are opened by the names in `config` unless they are given; a caller's corpus needs its own
    `held_out` to be measured on. `on_progress` is called at every logged step; `interrupt.request()` ends the run after
    the step under way, and what there is is saved.

    Raises `SettingError` if `out` is taken or the site does not exist, and `TrainingError` if the loss is no longer
    finite: the checkpoints written before that are kept.
    """
    directory = RunDirectory(
        config.out, config.overwrite
    )  # a directory that is taken is found out before the model is loaded
    model = model or load_model(config.model, device=config.device)
    config = replace(config, site=_single_site(config.site, model))
    if corpus is None:
        corpus = open_corpus(config.corpus_name, model.tokenizer, context=config.context, seed=config.seed)
        held_out = open_held_out(config.corpus_name, model, config.context)
    stream = shuffled_activations(
        model,
        corpus,
        config.site,
        rows_per_step=config.batch_size,
        buffer_rows=config.buffer,
        n_tokens=config.steps * config.batch_size,
        seed=config.seed,
        skip_special=True,
    )
    started = time.perf_counter()
    sample, stream = _peek(stream, rows=min(STATISTICS_ROWS, config.buffer))
    trainer = Trainer(config, sample, metadata_of(config, model, corpus))
    directory.open(config)
    with interrupt or Interrupt() as interrupt:
        _fit(trainer, stream, directory, started, on_progress, interrupt)
        directory.finish(trainer.folded())
    seconds = time.perf_counter() - started
    report = None
    if held_out is not None and not interrupt.requested:
        report = evaluate(trainer.folded(), model, held_out, config.eval_tokens)
        directory.write_report(report.to_dict())
    return TrainResult(directory.path, trainer.steps, trainer.tokens, seconds, interrupt.requested, report)


def _fit(
    trainer: Trainer,
    stream: Iterator[Float[Tensor, "rows d_in"]],
    directory: RunDirectory,
    started: float,
    on_progress: Callable[[Metrics], None] | None,
    interrupt: Interrupt,
) -> None:
    config = trainer.config
    with MetricsLog(directory.path / METRICS_FILE) as log:
        for rows in stream:
            x, step = trainer.step(rows)
            if not step.loss.isfinite():
                raise TrainingError(_diverged(trainer, directory))
            if trainer.steps % config.log_every == 0:
                metrics = trainer.metrics(x, step, time.perf_counter() - started)
                log.write(asdict(metrics))
                if on_progress:
                    on_progress(metrics)
            if config.checkpoint_every and trainer.steps % config.checkpoint_every == 0:
                directory.checkpoint(trainer.folded(), trainer.steps)
            if interrupt.requested:
                return


def open_held_out(source: str, model: HookedModel, context: int) -> Corpus:
    """The held-out part of a corpus. Of one that has none, all of it in another order, under a name that says so."""
    try:
        return open_corpus(source, model.tokenizer, context=context, split="held_out")
    except CorpusError:
        corpus = open_corpus(source, model.tokenizer, context=context, seed=HELD_OUT_SEED)
        corpus.name += " (trained on as well: it has no held-out part)"
        return corpus


def metadata_of(config: TrainConfig, model: HookedModel, corpus: Corpus) -> dict[str, Any]:
    """What SAELens and its readers look for beside the weights, and how the SAE was trained."""
    return {
        "hook_name": config.site,
        "hook_head_index": None,
        "model_name": config.model,
        "model_class_name": "TransformerBridge",
        "context_size": config.context,
        "prepend_bos": getattr(model.tokenizer, "bos_token_id", None) is not None,
        "dataset_path": config.corpus_name,
        "exclude_special_tokens": True,
        "model_fingerprint": model.fingerprint,
        "corpus_fingerprint": corpus.fingerprint,
        "training_tokens": config.tokens,
        "seed": config.seed,
    }


def _single_site(pattern: str, model: HookedModel) -> str:
    sites = expand(pattern, model.sites)
    if len(sites) > 1:
        raise SettingError(f"site must name one place, and {pattern} names {len(sites)}: {sites[0]}, {sites[1]}…")
    return sites[0]


def _peek(stream: Iterator[Tensor], rows: int) -> tuple[Tensor, Iterator[Tensor]]:
    """About `rows` rows from the front of a stream, and the stream with them still on it."""
    first = next(stream, None)
    if first is None:
        raise TrainingError("the corpus gave no activations to train on; it holds too little text")
    batches = [first, *islice(stream, max(0, rows // len(first) - 1))]
    return torch.cat(batches), chain(batches, stream)


def _diverged(trainer: Trainer, directory: RunDirectory) -> str:
    last = directory.last_checkpoint()
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint had been written"
    return (
        f"the loss is no longer finite at step {trainer.steps} (lr {trainer.config.lr:g}); "
        f"try a lower lr or a longer warm_up; {kept}"
    )
