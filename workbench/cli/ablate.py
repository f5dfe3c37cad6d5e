"""`workbench ablate`: what a model loses with each of its parts. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    from workbench.ablation import AblationResult
    from workbench.corpus import TokenBatch
    from workbench.model import HookedModel

command = Command(
    summary="What a model loses with each of its parts, on a task or on a text",
    options="workbench.cli.ablate:AblateOptions",
    run="workbench.cli.ablate:run",
    figure="workbench.figures.ablation:figure",
)


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """Ablation: take away each part of the model in turn, and measure a task, or the loss on a text."""

    task: str | None = None
    """A task, as ioi, greater_than, agreement (a wrong name lists all), or a .jsonl or .csv file with the fields clean,
    corrupted, answer and distractor; default: ioi, unless a corpus is given."""
    corpus: str | None = None
    """A text in place of a task: "tinytown", a .txt, .jsonl or .parquet file, or a dataset id."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    site: str = "blocks.*.attn.hook_z"
    """What to ablate; * matches every layer."""
    by: tuple[str, ...] = ("head",)
    """What to tell apart besides layers: head, position, neuron."""
    how: Literal["zero", "mean", "resample"] = "mean"
    """What takes its place: zero; its mean over the prompts; what it is on another prompt."""
    metric: str = "logit_difference"
    """Of a task: logit_difference, logit, probability, loss, or kl. On a text it is the loss."""
    examples: int = 40
    """How many prompts of a task, or contexts of a text."""
    context: int = 64
    """Tokens in a context of a text."""
    seed: int = 0
    """Draws examples, and what is resampled."""

    def __post_init__(self) -> None:
        if self.task is not None and self.corpus is not None:
            raise SettingError("give either a task or a corpus")
        if self.examples < 1 or self.context < 2 or self.seed < 0:
            raise SettingError("examples must be at least 1, context at least 2, and seed at least 0")


def run(options: AblateOptions) -> AblationResult:
    from workbench.ablation import ablation_study
    from workbench.cli.progress import progress_bar
    from workbench.cli.task import task_pairs
    from workbench.metrics import metric_named
    from workbench.model import load_model

    metric = metric_named(options.metric)
    model = load_model(options.model)
    if options.corpus is not None:
        on, metric = _contexts(options, model), None
    else:
        on = task_pairs(options.task or "ioi", model, options.examples, options.seed)
        if {"position", "query", "key"} & set(options.by):
            on = [group for group in on if group.clean.shape[1] == on[0].clean.shape[1]]
    with progress_bar() as update:
        return ablation_study(
            model,
            on,
            options.site,
            options.by,
            how=options.how,
            metric=metric,
            seed=options.seed,
            on_progress=lambda done, of: update(completed=done, total=of),
        )


def _contexts(options: AblateOptions, model: HookedModel) -> TokenBatch:
    """The first contexts of the text."""
    from workbench.corpus import open_corpus

    context = min(options.context, model.info.n_ctx)
    corpus = open_corpus(options.corpus, model.tokenizer, context=context, seed=options.seed)
    return next(iter(corpus.batches(options.examples)))
