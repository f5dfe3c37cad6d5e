"""`workbench neurons`: what the neurons of a layer respond to and what they promote. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.maximisation import Maximisation
    from workbench.neuron_pages import NeuronPage, NeuronTable

STEPS, LENGTH = 60, 12
"""Of `--maximise`: how many swaps of a token are made, and how long the prompt is."""

command = Command(
    summary="What neurons respond to and what they promote; prompts that drive one",
    options="workbench.cli.neurons:NeuronsOptions",
    run="workbench.cli.neurons:run",
    figure="workbench.cli.neurons:draw",
)


@dataclass(frozen=True)
class NeuronsOptions:
    """The neurons of one layer over a corpus, as key–value memories: what triggers each, and what it promotes."""

    layer: int = 0
    """The layer whose neurons to look at."""
    top: int = 10
    """How many neurons to list: those whose key and value agree best; of one neuron, how many contexts and tokens."""
    neuron: int | None = None
    """One neuron in full."""
    maximise: bool = False
    """With --neuron: look for the prompt that drives it furthest, beginning from the best of the corpus."""
    fluency: float = 0.0
    """What a nat a token of loss costs such a prompt; higher gives more natural text."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    corpus: str = "tinytown"
    """The text to read."""
    tokens: int = 100_000
    """How many tokens to read."""
    context: int = 128
    """Tokens per sequence."""
    seed: int = 0
    """Decides the order of the corpus, and which swaps of tokens are tried."""

    def __post_init__(self) -> None:
        if self.top < 1 or self.tokens < 1:
            raise SettingError("--top and --tokens must be at least 1")
        if self.maximise and self.neuron is None:
            raise SettingError("--maximise takes --neuron, the neuron to drive")


def run(options: NeuronsOptions) -> NeuronTable | NeuronPage | Maximisation:
    from workbench.cli.progress import progress_bar
    from workbench.corpus import open_corpus
    from workbench.maximisation import maximise
    from workbench.memories import memories
    from workbench.model import load_model
    from workbench.neuron_pages import check_neuron, neuron_page, neuron_table
    from workbench.neurons import neuron_activity
    from workbench.weights import mlp_weights

    model = load_model(options.model)
    if options.neuron is not None:
        check_neuron(options.layer, options.neuron, len(mlp_weights(model, options.layer).W_out))
    corpus = open_corpus(
        options.corpus, model.tokenizer, context=min(options.context, model.info.n_ctx), seed=options.seed
    )
    with progress_bar(options.tokens) as update:
        activity = neuron_activity(
            model,
            corpus,
            [options.layer],
            n_tokens=options.tokens,
            n_examples=options.top,
            on_progress=lambda done: update(completed=done, description="tokens read"),
        )
        found = memories(model, options.layer, activity[options.layer], k=min(options.top, model.info.d_vocab // 2))
        if options.neuron is None:
            return neuron_table(found, options.top)
        page = neuron_page(found, options.neuron)
        if not options.maximise:
            return page
        return maximise(
            model,
            found.activity.site,
            [page.neuron],
            start=found.starts([page.neuron], LENGTH),
            sign=page.sign,
            steps=STEPS,
            fluency=options.fluency,
            seed=options.seed,
            on_progress=lambda done: update(completed=done, total=STEPS, description="swaps"),
        )


def draw(result: NeuronTable | NeuronPage | Maximisation) -> go.Figure:
    from workbench.figures.neurons import page
    from workbench.neuron_pages import NeuronPage

    if not isinstance(result, NeuronPage):
        raise SettingError("only the page of one neuron is drawn; give --neuron, and not --maximise")
    return page(result)
