"""Training: activations stream in, an SAE and the record of how it came about go out."""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from saes.architectures import ARCHITECTURES
from saes.checkpoints import Checkpoints, check_origin
from saes.config import TrainConfig
from saes.evaluation import evaluate
from saes.loggers import check_loggers
from saes.parallel.joining import joined
from saes.report import SAEReport
from saes.route import Route
from saes.run_directory import RunDirectory
from saes.storage import load_sae
from saes.team import Team
from saes.trainer import Metrics, Trainer
from saes.training_pass import TrainingPass
from saes.training_run import TrainingRun
from workbench.activations import ActivationStream, shuffled_activations
from workbench.corpus import Corpus, open_corpus, open_held_out
from workbench.errors import SettingError, TrainingError
from workbench.files import held
from workbench.interrupt import Interrupt
from workbench.model import HookedModel, load_model

STATISTICS_ROWS = 16_384
"""Activations from which the input's scale and the decoder's bias are estimated."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. `report` is None if the run was interrupted, or had no held-out text to be measured on."""

    out: Path
    steps: int
    tokens: int
    seconds: float
    """Harvest and steps, over all sittings."""
    interrupted: bool
    report: SAEReport | None
    failed: str | None = None
    """Why a run among several was given up."""

    def __str__(self) -> str:
        if self.failed:
            return f"{self.out}: {self.failed}"
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
    the step under way, with a checkpoint. However a run ends, `config.resume` goes on with it from its last checkpoint,
    on the CPU with the same number of threads to the same bits; of a complete run it returns the result.

    Raises `SettingError` if `out` is taken, the site does not exist, or the run to be resumed had other settings,
    another model or another corpus; `DamagedFile` if its checkpoint is broken; and `TrainingError` if the loss is no
    longer finite, every latent is dead, or a file cannot be written: the checkpoints written before that are kept.
    """
    show = None if on_progress is None else lambda metrics: on_progress(metrics[0])
    return train_together([config], config.out, model, corpus, held_out, show, interrupt)[0]


def train_together(
    configs: Sequence[TrainConfig],
    home: Path,
    model: HookedModel | None = None,
    corpus: Corpus | None = None,
    held_out: Corpus | None = None,
    on_progress: Callable[[list[Metrics]], None] | None = None,
    interrupt: Interrupt | None = None,
) -> list[TrainResult]:
    """Train several SAEs in one pass over the model, each as `train` would alone.

    The configurations may differ in `out`, `site`, `seed` and whatever concerns the SAE alone; their checkpoints are
    shared, and lie in `home`. An SAE that goes wrong is given up, and its result says why.

    Under `torchrun` every process calls this, and they train together as `parallel` says. One of them writes the files
    and measures the SAEs: the others' results have no report. Raises `ProcessLost` where another has ended.
    """
    with joined(configs[0]) as team:
        return _train_in(team, configs, home, model, corpus, held_out, on_progress, interrupt or Interrupt())


def _train_in(
    team: Team,
    configs: Sequence[TrainConfig],
    home: Path,
    model: HookedModel | None,
    corpus: Corpus | None,
    held_out: Corpus | None,
    on_progress: Callable[[list[Metrics]], None] | None,
    interrupt: Interrupt,
) -> list[TrainResult]:
    shared = configs[0]
    for config in configs:
        team.check(config)
    directories = [RunDirectory(config.out, config.overwrite, config.resume) for config in configs]
    checkpoints = Checkpoints(home)
    if checkpoints.last() and not (shared.overwrite or shared.resume):
        raise SettingError(f"{home} holds an unfinished run; --resume goes on with it, --overwrite begins it anew")
    check_loggers(shared.log_to)
    if shared.resume and all(directory.complete for directory in directories):
        if team.leads:
            checkpoints.remove()
        return [_complete(directory) for directory in directories]
    model = model or load_model(shared.model, device=team.device_of(shared.device))
    routes = [ARCHITECTURES[config.architecture].plan(config, model.sites) for config in configs]
    configs = [_explicit(config, route) for config, route in zip(configs, routes, strict=True)]
    if corpus is None:
        corpus = open_corpus(shared.corpus_name, model.tokenizer, context=shared.context, seed=shared.order)
        held_out = open_held_out(shared.corpus_name, model.tokenizer, context=shared.context)
    last = checkpoints.last() if shared.resume else None
    if last:
        _check_same(last, configs, directories, model, corpus)
    sites = [site for route in routes for site in route.sites]
    with closing(_stream(configs[0], sites, model, corpus, team)) as stream:
        runs = _runs(configs, routes, directories, home, stream, model, corpus, team)
        ours = TrainingPass(runs, stream, checkpoints, _origin(model, corpus))
        if team.leads:
            home.mkdir(parents=True, exist_ok=True)
        team.wait()
        try:
            with held(home) if team.leads else nullcontext(), closing(ours):
                return _train(ours, last, model, held_out, on_progress, interrupt, team)
        except OSError as error:
            raise TrainingError(checkpoints.stopped(error)) from None


def _explicit(config: TrainConfig, route: Route) -> TrainConfig:
    """The configuration with the names of its sites spelt out; a crosscoder's pattern says as much as its sites."""
    if len(route.reads) > 1:
        return config
    return replace(config, site=route.reads[0], site_out=None if route.writes == route.reads else route.writes[0])


def _stream(
    shared: TrainConfig, sites: Sequence[str], model: HookedModel, corpus: Corpus, team: Team
) -> ActivationStream:
    model, relay = team.share(model)
    return shuffled_activations(
        model,
        corpus,
        sites,
        rows_per_step=shared.batch_size,
        buffer_rows=shared.buffer,
        n_tokens=shared.steps * shared.batch_size,
        seed=shared.order,
        skip_special=True,
        cache=shared.cache if team.leads else None,
        relay=relay,
    )


def _runs(
    configs: Sequence[TrainConfig],
    routes: Sequence[Route],
    directories: Sequence[RunDirectory],
    home: Path,
    stream: ActivationStream,
    model: HookedModel,
    corpus: Corpus,
    team: Team,
) -> list[TrainingRun]:
    sample = stream.peek(min(STATISTICS_ROWS, configs[0].buffer // 2))
    if not len(sample):
        raise TrainingError("the corpus gave no activations to train on; it holds too little text")
    runs = []
    for config, route, directory in zip(configs, routes, directories, strict=True):
        columns, widths = _columns(stream, route, sample.device)
        trainer = Trainer(config, sample[:, columns], metadata_of(config, route, model, corpus), widths, team)
        runs.append(TrainingRun(directory.path.relative_to(home).as_posix(), trainer, directory, columns))
    return runs


def _columns(
    stream: ActivationStream, route: Route, device: torch.device
) -> tuple[slice | Int[Tensor, " width"], tuple[int, ...]]:
    """Where in a row the activations at the sites of a route lie, and how wide each is."""
    parts = [stream.columns(site) for site in route.sites]
    widths = tuple(part.stop - part.start for part in parts)
    if len(parts) == 1:
        return parts[0], widths
    return torch.cat([torch.arange(part.start, part.stop, device=device) for part in parts]), widths


def _train(
    ours: TrainingPass,
    last: Path | None,
    model: HookedModel,
    held_out: Corpus | None,
    on_progress: Callable[[list[Metrics]], None] | None,
    interrupt: Interrupt,
    team: Team,
) -> list[TrainResult]:
    """Train from the last checkpoint, or from the beginning, to the end; save the SAEs, and measure them."""
    with interrupt:
        if last:
            ours.restore(last)
        else:
            ours.open()
        if ours.fit(on_progress, interrupt):
            return [_result(ours, run, None, interrupted=True) for run in ours.runs]
        for run in ours.going:
            sae = run.trainer.folded()
            if team.leads:
                run.directory.finish(sae)
    if not team.leads:
        return [_result(ours, run, None) for run in ours.runs]
    reports = {run.name: _measure(run, model, held_out) for run in ours.going}
    for run in ours.going:
        report = reports[run.name]
        run.directory.write_report({"training": ours.summary(run)} | (report.to_dict() if report else {}))
    ours.checkpoints.remove()
    return [_result(ours, run, reports.get(run.name)) for run in ours.runs]


def _measure(run: TrainingRun, model: HookedModel, held_out: Corpus | None) -> SAEReport | None:
    if held_out is None:
        return None
    sae = load_sae(run.directory.path, model.device)
    return evaluate(sae, model, held_out, run.trainer.config.eval_tokens)


def _result(ours: TrainingPass, run: TrainingRun, report: SAEReport | None, interrupted: bool = False) -> TrainResult:
    trainer, seconds = run.trainer, ours.seconds(run)
    return TrainResult(run.directory.path, trainer.steps, trainer.tokens, seconds, interrupted, report, run.failure)


def _complete(directory: RunDirectory) -> TrainResult:
    """The result of a run that was completed before, from its files."""
    saved = directory.read_report()
    done = {name: saved["training"][name] for name in ("steps", "tokens", "seconds")}
    report = SAEReport.from_dict(saved) if "fvu" in saved else None
    return TrainResult(directory.path, **done, interrupted=False, report=report, failed=saved.get("failed"))


def _origin(model: HookedModel, corpus: Corpus) -> dict[str, str]:
    return {"model_fingerprint": model.fingerprint, "corpus_fingerprint": corpus.fingerprint}


def _check_same(
    checkpoint: Path,
    configs: Sequence[TrainConfig],
    directories: Sequence[RunDirectory],
    model: HookedModel,
    corpus: Corpus,
) -> None:
    """Raises `SettingError` if a checkpoint comes from other settings, another model or another corpus."""
    for directory, config in zip(directories, configs, strict=True):
        directory.check(config)
    check_origin(checkpoint, {"model": configs[0].model, "corpus": configs[0].corpus_name}, _origin(model, corpus))


def metadata_of(config: TrainConfig, route: Route, model: HookedModel, corpus: Corpus) -> dict[str, Any]:
    """What SAELens and its readers look for beside the weights, and how the SAE was trained."""
    return route.metadata() | {
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
