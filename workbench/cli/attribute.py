"""`workbench attribute`: what each part of a model adds to an answer. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.attribution import Attribution
    from workbench.integrated_gradients import InputAttribution
    from workbench.model import HookedModel
    from workbench.prompts import PromptPairs

command = Command(
    summary="What each layer, head, neuron, latent or token adds to an answer",
    options="workbench.cli.attribute:AttributeOptions",
    run="workbench.cli.attribute:run",
    figure="workbench.cli.attribute:draw",
)


@dataclass(frozen=True)
class AttributeOptions:
    """Split the logit of an answer, or its lead over a distractor, into what each part of the model adds to it."""

    prompt: Positional[str | None] = None
    """The text that the answer completes; or give a task."""
    answer: str | None = None
    """One token, its leading space included where the tokenizer has one."""
    distractor: str | None = None
    """Another token, from whose logit the answer's is told apart; default: none, the logit itself is split."""
    task: str | None = None
    """Many prompts: a task, as ioi, greater_than, agreement (a wrong name lists all), or a .jsonl or .csv file with the
    fields clean, corrupted, answer and distractor."""
    examples: int = 100
    """How many prompts of a task."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    by: Literal["layer", "sublayer", "head", "source", "neuron", "latent", "token"] = "sublayer"
    """What to split by: source is each head by the token it attends to; latent needs an sae; token is the prompt's own
    tokens, by integrated gradients."""
    sae: Path | None = None
    """Directory of an SAE in SAELens' format, for latents."""
    baseline: Literal["zeros", "mean"] = "mean"
    """Tokens: what stands for none, zeros or the mean embedding."""
    steps: int = 128
    """Tokens: points of the integral."""
    seed: int = 0
    """Draws the examples of a task."""

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.task is None):
            raise SettingError("give either a prompt, with --answer, or --task")
        if self.prompt is not None and self.answer is None:
            raise SettingError("a prompt needs --answer, the token that completes it")
        if self.task is not None and (self.answer or self.distractor):
            raise SettingError("a task has answers and distractors of its own")
        if (self.by == "latent") != (self.sae is not None):
            raise SettingError("--by latent and --sae go together")
        if self.by == "token" and self.task is not None:
            raise SettingError("--by token explains one prompt; give a prompt in place of a task")
        if self.examples < 1 or self.seed < 0:
            raise SettingError("examples must be at least 1, and seed at least 0")


def run(options: AttributeOptions) -> Attribution | InputAttribution:
    from workbench.attribution import attribute
    from workbench.integrated_gradients import integrated_gradients
    from workbench.metrics import LOGIT, LOGIT_DIFFERENCE
    from workbench.model import load_model

    sae, site = _read_sae(options.sae) if options.sae else (None, None)
    model = load_model(options.model)
    pairs = _pairs(options, model)
    metric = LOGIT_DIFFERENCE if options.task or options.distractor else LOGIT
    if options.by == "token":
        return integrated_gradients(model, pairs[0], metric=metric, baseline=options.baseline, steps=options.steps)
    return attribute(model, pairs, by=options.by, metric=metric, sae=sae, site=site)


def _pairs(options: AttributeOptions, model: HookedModel) -> list[PromptPairs]:
    from workbench.cli.task import task_pairs
    from workbench.prompts import prompt_pairs

    if options.task is None:
        texts = ([options.prompt], [options.prompt], [options.answer], [options.distractor or options.answer])
        return [prompt_pairs(model, *texts, name="prompt")]
    return task_pairs(options.task, model, options.examples, options.seed)


def _read_sae(directory: Path) -> tuple[Any, str]:
    """An SAE, and the site that it reads."""
    if not (directory / "cfg.json").is_file():
        raise SettingError(f"{directory} holds no SAE (cfg.json, sae_weights.safetensors)")
    from sae_lens import SAE

    sae = SAE.load_from_disk(str(directory))
    return sae, sae.cfg.metadata["hook_name"]


def draw(result: Attribution | InputAttribution) -> go.Figure:
    from workbench.figures import attribution as figures
    from workbench.integrated_gradients import InputAttribution

    if isinstance(result, InputAttribution):
        return figures.tokens(result)
    drawn = {"head": figures.heads, "sublayer": figures.waterfall}
    return drawn.get(result.by, figures.bars)(result)
