"""`workbench patch`: which activations carry the difference between two prompts. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.attribution_patching import Agreement
    from workbench.patching import PatchingResult

command = Command(
    summary="Which activations carry the difference between clean and corrupted prompts",
    options="workbench.cli.patch:PatchOptions",
    run="workbench.cli.patch:run",
    figure="workbench.cli.patch:draw",
)


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """Activation patching: put each activation of one run into another, and see how far the answer follows."""

    task: str = "ioi"
    """A task, as ioi, greater_than, agreement (a wrong name lists all), or a .jsonl or .csv file with the fields clean,
    corrupted, answer and distractor."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    site: str = "blocks.*.attn.hook_z"
    """Where to patch; * matches every layer."""
    by: tuple[str, ...] = ("head",)
    """What to tell apart besides layers: head, position, neuron; query and key of an attention pattern."""
    metric: str = "logit_difference"
    """logit_difference, logit, probability, loss, or kl."""
    direction: Literal["denoise", "noise"] = "denoise"
    """denoise: clean activations into the corrupted run; noise: corrupted ones into the clean run."""
    method: Literal["exact", "preview", "both"] = "exact"
    """preview: attribution patching, first order, from one backward pass; both: how well it foresees the exact one."""
    examples: int = 40
    """How many prompt pairs of a task; by position, those of them as long as the first."""
    seed: int = 0
    """Draws the examples of a task."""

    def __post_init__(self) -> None:
        if self.examples < 1 or self.seed < 0:
            raise SettingError("examples must be at least 1, and seed at least 0")


def run(options: PatchOptions) -> PatchingResult | Agreement:
    from workbench.attribution_patching import attribution_patching, compare
    from workbench.cli.progress import progress_bar
    from workbench.cli.task import task_pairs
    from workbench.metrics import metric_named
    from workbench.model import load_model
    from workbench.patching import activation_patching

    settings = {"metric": metric_named(options.metric), "direction": options.direction}
    model = load_model(options.model)
    pairs = task_pairs(options.task, model, options.examples, options.seed)
    if {"position", "query", "key"} & set(options.by):
        pairs = [group for group in pairs if group.clean.shape[1] == pairs[0].clean.shape[1]]
    preview = exact = None
    if options.method != "exact":
        preview = attribution_patching(model, pairs, options.site, options.by, **settings)
    if options.method != "preview":
        with progress_bar() as update:
            exact = activation_patching(
                model,
                pairs,
                options.site,
                options.by,
                **settings,
                on_progress=lambda done, of: update(completed=done, total=of),
            )
    return compare(exact, preview) if exact and preview else exact or preview


def draw(result: PatchingResult | Agreement) -> go.Figure:
    from workbench.attribution_patching import Agreement
    from workbench.figures import patching

    return patching.agreement(result) if isinstance(result, Agreement) else patching.figure(result)
