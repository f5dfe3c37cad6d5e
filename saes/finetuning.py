"""Fine-tuning on the model's own loss: an SAE goes in, and one comes out with which the model misses less."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saes.checkpoints import Checkpoints, check_origin
from saes.config import FinetuneConfig
from saes.evaluation import evaluate
from saes.finetune_run import Contexts, FinetuneRun
from saes.finetuner import FinetuneMetrics, Finetuner
from saes.index.gather import fingerprint
from saes.loggers import RunLog, check_loggers
from saes.origin import origin
from saes.report import SAEReport
from saes.route import check_route, rows_at
from saes.run_directory import RunDirectory
from saes.sae import SAE
from saes.storage import load_sae
from workbench.activations import special_ids
from workbench.corpus import Corpus, open_corpus, open_held_out
from workbench.errors import SettingError, TrainingError
from workbench.files import held
from workbench.interrupt import Interrupt
from workbench.model import HookedModel, load_model


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning came to. The reports are None if it was interrupted, or had no held-out text to measure on."""

    out: Path
    steps: int
    tokens: int
    seconds: float
    """Steps, over all sittings."""
    interrupted: bool = False
    before: SAEReport | None = None
    after: SAEReport | None = None

    def __str__(self) -> str:
        head = f"Fine-tuned on {self.tokens:,} tokens in {self.seconds:.0f} s; saved in {self.out}"
        if self.before is None or self.after is None:
            return head
        pairs = zip(self.before.rows(), self.after.rows(), strict=True)
        rows = [("", "before", "after"), *((name, was, now) for (name, was, _), (_, now, _) in pairs)]
        rows.append(("KL from untouched", f"{self.before.kl:.4f}", f"{self.after.kl:.4f}"))
        text = f"Measured on {self.after.n_tokens:,} tokens of {self.after.corpus}:"
        return "\n".join([head, "", text, *(f"  {name:<30} {was:>9} {now:>9}" for name, was, now in rows)])


def finetune(
    config: FinetuneConfig,
    model: HookedModel | None = None,
    corpus: Corpus | None = None,
    held_out: Corpus | None = None,
    on_progress: Callable[[FinetuneMetrics], None] | None = None,
    interrupt: Interrupt | None = None,
) -> FinetuneResult:
    """Fine-tune the SAE in `config.sae` on the loss of the model that it is spliced into; save what comes of it in
    `config.out`, and measure both on held-out text.

    Model and corpora are opened by the names in `config`, or else in the SAE, unless they are given; a caller's corpus
    needs its own `held_out` to be measured on. Progress, interrupts and resuming are as in `saes.training.train`.

    Raises `SettingError` if `out` is taken, the SAE does not fit the model or is no autoencoder of one site, or the run
    to be resumed had other settings, another SAE, model or corpus; `DamagedFile` if the SAE or a checkpoint is broken;
    and `TrainingError` if the loss is no longer finite or a file cannot be written.
    """
    directory, checkpoints = RunDirectory(config.out, config.overwrite, config.resume), Checkpoints(config.out)
    if checkpoints.last() and not (config.overwrite or config.resume):
        raise SettingError(
            f"{config.out} holds an unfinished run; --resume goes on with it, --overwrite begins it anew"
        )
    check_loggers(config.log_to)
    if config.resume and directory.complete:
        checkpoints.remove()
        return _complete(directory)
    sae = load_sae(config.sae)
    if sae.cfg.d_out or sae.cfg.widths:
        raise SettingError(f"{config.sae} is a {sae.architecture}, and only what writes where it reads is fine-tuned")
    given = config.model or (model and model.info.name), config.corpus or (corpus and corpus.name)
    name, source = origin(sae, config.sae, *given)
    model = model or load_model(name, device=config.device)
    if corpus is None:
        context = config.context or sae.cfg.metadata.get("context_size") or 128
        corpus = open_corpus(source, model.tokenizer, context=context, seed=config.seed)
        held_out = open_held_out(source, model.tokenizer, context=context)
    facts = {
        "model_fingerprint": model.fingerprint,
        "corpus_fingerprint": corpus.fingerprint,
        "sae_fingerprint": fingerprint(sae),
    }
    last = checkpoints.last() if config.resume else None
    if last:
        directory.check(config)
        check_origin(last, {"model": name, "corpus": source, "sae": str(config.sae)}, facts)
    contexts = Contexts(corpus, max(1, config.batch_size // corpus.context), special_ids(model.tokenizer))
    sample = _sample(sae.to(model.device), model, contexts)
    metadata = _metadata(config, name, source, model, corpus)
    finetuner = Finetuner(config, sae, model, sample, metadata)
    run = FinetuneRun(finetuner, contexts, checkpoints, facts)
    config.out.mkdir(parents=True, exist_ok=True)
    try:
        with held(config.out):
            return _finetune(run, directory, last, held_out, on_progress, interrupt or Interrupt())
    except OSError as error:
        raise TrainingError(checkpoints.stopped(error)) from None


def _finetune(
    run: FinetuneRun,
    directory: RunDirectory,
    last: Path | None,
    held_out: Corpus | None,
    on_progress: Callable[[FinetuneMetrics], None] | None,
    interrupt: Interrupt,
) -> FinetuneResult:
    """Go on from the last checkpoint, or from the beginning, to the end; save the SAE, and measure it."""
    finetuner, config = run.finetuner, run.finetuner.config
    with interrupt:
        if last:
            run.restore(last)
            directory.reopen(finetuner.steps)
        else:
            run.checkpoints.remove()
            directory.open(config)
        with closing(RunLog(directory.path, config.log_to, config.to_dict())) as log:
            log.open(after=finetuner.steps)
            run.fit(log, on_progress, interrupt)
        if interrupt.requested:
            return FinetuneResult(directory.path, **run.summary(), interrupted=True)
        directory.finish(finetuner.folded())
    report: dict[str, Any] = {"training": run.summary()}
    if held_out is not None:
        before, after = (
            evaluate(sae, finetuner.model, held_out, config.eval_tokens)
            for sae in (finetuner.before, finetuner.folded())
        )
        report |= {"before": before.to_dict()} | after.to_dict()
    directory.write_report(report)
    run.checkpoints.remove()
    return _complete(directory)


def _complete(directory: RunDirectory) -> FinetuneResult:
    """The result of a complete run, from its files."""
    saved = directory.read_report()
    before, after = (
        (SAEReport.from_dict(one) for one in (saved["before"], saved)) if "before" in saved else (None, None)
    )
    return FinetuneResult(directory.path, **saved["training"], before=before, after=after)


def _sample(sae: SAE, model: HookedModel, contexts: Contexts) -> Float[Tensor, "rows d_in"]:
    """Activations at the SAE's site on the first batch. Raises `SettingError` if they are not what it takes."""
    check_route(sae, model)
    tokens, keep = contexts.first()
    run = model.run(tokens, capture=sae.route.reads, stop_after=sae.site)
    return rows_at(sae, sae.route.reads, run.activations, keep.to(model.device))


def _metadata(config: FinetuneConfig, name: str, source: str, model: HookedModel, corpus: Corpus) -> dict[str, Any]:
    """What is now to be said of the SAE."""
    return {
        "model_name": name,
        "model_fingerprint": model.fingerprint,
        "dataset_path": source,
        "corpus_fingerprint": corpus.fingerprint,
        "context_size": corpus.context,
        "exclude_special_tokens": True,
        "finetuned_from": str(config.sae),
        "finetuning_loss": config.loss,
        "finetuning_tokens": config.tokens,
    }
