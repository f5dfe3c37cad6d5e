"""`workbench steer`: a direction, what it does to what the model writes, and what it costs. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.directions import Direction
    from workbench.dose import DoseResponse
    from workbench.effects import Effect
    from workbench.model import HookedModel
    from workbench.steering import Steered

command = Command(
    summary="Steer what the model writes, and see what it costs",
    options="workbench.cli.steer:SteerOptions",
    run="workbench.cli.steer:run",
    figure="workbench.cli.steer:draw",
)


@dataclass(frozen=True)
class SteerOptions:
    """Steer by a direction: its effect on what the model writes, and its damage to the model, at every dose.

    The direction comes from one of --concept, --contrast and --direction.
    """

    concept: str | None = None
    """A concept that the corpus labels: the direction between its tokens and all others."""
    contrast: Path | None = None
    """A .jsonl or .csv file with fields `positive` and `negative`: the direction between both kinds of texts, read at
    the last token."""
    direction: Path | None = None
    """A direction saved before, by --save or by `workbench probe --out`."""
    method: Literal["mean", "pca", "logistic", "actadd"] = "mean"
    """How it is made: difference of means, first component of the differences of pairs, normal of a logistic
    regression, or (of a single contrast) the difference at every position of the prompt."""
    site: str | None = None
    """Where; by default after the layer just past the middle."""
    how: Literal["add", "clamp", "ablate"] = "add"
    """Add the direction, set the component along it, or take that component out."""
    doses: tuple[float, ...] = ()
    """How much; 1 is the distance between both kinds. By default a range; several are compared."""
    said: tuple[str, ...] = ()
    """Words that count as the effect; by default those that have the concept."""
    prompts: tuple[str, ...] = ()
    """Texts to continue; by default the beginnings of texts of --prompts-from."""
    prompts_from: str | None = None
    """Corpus whose texts are begun; by default --corpus, of Tinytown its stories."""
    n_prompts: int = 64
    """How many beginnings."""
    new_tokens: int = 28
    """Tokens in a continuation."""
    temperature: float = 1.0
    """Divides the logits in sampling; 0 takes the likeliest token."""
    seed: int = 0
    """Seed of the first continuation; the next has the next."""
    corpus: str = "tinytown"
    """Where concepts are labelled, and what the damage is measured on."""
    tokens: int = 4000
    """Tokens that the damage is measured on."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    save: Path | None = None
    """Save the direction here."""

    def __post_init__(self) -> None:
        given = [name for name in ("concept", "contrast", "direction") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SettingError("a direction comes from one of --concept, --contrast FILE and --direction FILE")
        if self.method == "actadd" and self.contrast is None:
            raise SettingError("--method actadd is a way to contrast two prompts; give them with --contrast FILE")
        if min(self.n_prompts, self.new_tokens, self.tokens) < 1:
            raise SettingError("--n-prompts, --new-tokens and --tokens must be 1 or more")


def run(options: SteerOptions) -> DoseResponse | Steered:
    from workbench.corpus import open_held_out
    from workbench.dose import DOSES, dose_response
    from workbench.model import load_model
    from workbench.steering import steer

    model = load_model(options.model)
    direction = _direction(options, model)
    if options.save is not None:
        direction.save(options.save)
    if options.how == "ablate" or not (options.said or options.concept):
        settings = {"max_new_tokens": options.new_tokens, "temperature": options.temperature, "seed": options.seed}
        dose = options.doses[0] if options.doses else 1.0
        return steer(model, direction, _prompts(options, model)[:8], dose, options.how, **settings)
    held_out = open_held_out(options.corpus, model.tokenizer, context=min(128, model.info.n_ctx))
    return dose_response(
        model,
        direction,
        _effect(options, model),
        held_out,
        doses=options.doses or DOSES,
        how=options.how,
        n_tokens=options.tokens,
        progress=True,
    )


def _direction(options: SteerOptions, model: HookedModel) -> Direction:
    from workbench import directions
    from workbench.corpus import open_corpus

    if options.direction is not None:
        return directions.Direction.load(options.direction, model)
    site = options.site or f"blocks.{model.info.n_layers // 2}.hook_resid_post"
    if options.concept is not None:
        corpus = open_corpus(options.corpus, model.tokenizer, context=min(128, model.info.n_ctx))
        return directions.concept_direction(model, corpus, options.concept, site, method=options.method)
    positive, negative = directions.read_contrasts(options.contrast)
    if options.method != "actadd":
        name = options.contrast.stem
        return directions.contrast_direction(model, positive, negative, site, name=name, method=options.method)
    if len(positive) != 1:
        raise SettingError(f"--method actadd contrasts one pair; {options.contrast} has {len(positive)}")
    return directions.activation_difference(model, positive[0], negative[0], site)


def _prompts(options: SteerOptions, model: HookedModel) -> list:
    from workbench.corpus import open_held_out
    from workbench.effects import beginnings

    if options.prompts:
        return [model.to_tokens(text)[0] for text in options.prompts]
    source = options.prompts_from or ("tinytown:story" if options.corpus == "tinytown" else options.corpus)
    corpus = open_held_out(source, model.tokenizer, context=min(128, model.info.n_ctx))
    return list(beginnings(corpus, options.n_prompts, length=4))


def _effect(options: SteerOptions, model: HookedModel) -> Effect:
    from workbench.corpus import open_corpus
    from workbench.effects import concept_rate, concept_tokens, says

    if options.said:
        name, said = "/".join(options.said[:3]), says(model, options.said)
    else:
        name = options.concept
        said = concept_tokens(open_corpus(options.corpus, model.tokenizer), name)
    return concept_rate(
        model,
        _prompts(options, model),
        said,
        name=name,
        max_new_tokens=options.new_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )


def draw(result: DoseResponse | Steered) -> go.Figure:
    from workbench.dose import DoseResponse
    from workbench.figures.steering import figure

    if not isinstance(result, DoseResponse):
        raise SettingError("only the effect of doses is drawn, not texts; name the effect with --said")
    return figure(result)
