"""The circuit commands as a person meets them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuits.discovery import Discovery, check_free, check_model, discover, load_discovery
from circuits.held_out import draw
from circuits.latents import latents_by_layer, transcoder_directories
from circuits.options import FindOptions, ScoreOptions, ShowOptions, SurveyOptions
from circuits.proof import Proof, prove
from circuits.report import report
from circuits.survey import Survey, survey
from circuits.tasks.registry import TASKS, task_named
from saes.sae import SAE
from saes.storage import load_saes
from workbench.files import write_text
from workbench.model import HookedModel, load_model


@dataclass(frozen=True)
class Shown:
    """Where a page was written."""

    page: Path

    def __str__(self) -> str:
        return f"Wrote {self.page}"


def find(options: FindOptions) -> Discovery:
    """Raises `WorkbenchError`s, those of `--out` before the work begins."""
    if options.out is not None:
        check_free(options.out)
    model = load_model(options.model)
    saes = _saes(model, options.model, options.transcoders) if options.latents else None
    found = discover(
        model,
        task_named(options.task, model),
        options.method,
        edges=options.edges,
        ablation=options.ablation,
        ranking=options.ranking,
        n=options.examples,
        seed=options.seed,
        sentence=options.sentence,
        by_position=options.by_position,
        units=options.units,
        saes=saes,
        facts={
            "source": options.model,
            "asked": options.task,
            "units": options.units,
            "latents": options.latents,
            "transcoders": [str(path.resolve()) for path in options.transcoders],
        },
    )
    if options.out is not None:
        found.save(options.out)
    return found


def survey_all(options: SurveyOptions) -> Survey:
    return survey(
        load_model(options.model),
        options.tasks,
        options.method,
        edges=options.edges,
        ablation=options.ablation,
        ranking=options.ranking,
        n=options.examples,
        seed=options.seed,
        out=options.out,
        facts={"source": options.model},
    )


def score(options: ScoreOptions) -> Proof:
    """Raises `ModelError` for another model than the circuit's."""
    found = load_discovery(options.circuit)
    facts = found.circuit.facts
    model = load_model(options.model or facts["source"])
    check_model(found.circuit, model)
    seed = facts["seed"] + 1 if options.seed is None else options.seed
    task = task_named(options.task or facts["asked"], model)
    sentence = facts["sentence"] if options.task is None else None
    groups = draw(task, model, options.examples, seed=seed, sentence=sentence)
    source = f"{task.name}, seed {seed}" if task.name in TASKS else task.name
    has_latents, directories = facts.get("latents"), options.transcoders or facts.get("transcoders", ())
    saes = _saes(model, facts["source"], directories) if has_latents else None
    return prove(found, model, task, groups, source=source, saes=saes, seed=seed)


def _saes(model: HookedModel, name: str, directories: Sequence[str | Path]) -> dict[int, SAE]:
    return latents_by_layer(load_saes(transcoder_directories(directories, name), model.device), model)


def show(options: ShowOptions) -> Shown:
    found = load_discovery(options.circuit)
    page = options.out or options.circuit / "report.html"
    write_text(page, report(found))
    return Shown(page)
