"""`workbench circuit features`: the feature circuit of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from workbench.cli.command import Command

if TYPE_CHECKING:
    from circuits.attribution_graph.circuit import FeatureCircuit

features = Command(
    summary="Which transcoder latents make the next token, and through which others",
    options="circuits.attribution_graph.cli:FeatureOptions",
    run="circuits.attribution_graph.cli:run",
)


@dataclass(frozen=True)
class FeatureOptions:
    """The feature circuit of a prompt: its attribution graph over transcoder latents, pruned.

    Writes graph.json, which circuit-tracer's viewer and Neuronpedia open, and graph.html, a picture.
    """

    prompt: Positional[str]
    """The text whose next token is to be explained."""
    transcoders: tuple[Path, ...] = ()
    """Directories of transcoders, one for each layer, or of one directory that holds them; with the bundled model
    they may be left out. A layer without a transcoder counts as error."""
    out: Path | None = None
    """The directory for graph.json and graph.html."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    logits: tuple[str, ...] = ()
    """The next tokens to explain; default: the likeliest."""
    against: str | None = None
    """Explain why these and not this token; default: against the mean of all logits."""
    probability: float = 0.95
    """How much probability the likeliest tokens should have together..."""
    max_logits: int = 10
    """...but no more of them than this."""
    max_latents: int = 8192
    """How many of the active latents to keep, the most influential ones; memory grows with the square."""
    nodes: float = 0.8
    """The share of all influence on the logits that the circuit's nodes keep."""
    edges: float = 0.98
    """The share of the influence left between them that its links keep."""


def run(options: FeatureOptions) -> FeatureCircuit:
    from rich.console import Console
    from rich.progress import Progress

    from circuits.attribution_graph.graph import attribution_graph
    from circuits.attribution_graph.neuronpedia import save_circuit
    from circuits.attribution_graph.pruning import prune
    from circuits.attribution_graph.transcoders import read_transcoders
    from circuits.latents import transcoder_directories
    from workbench.figures.attribution_graph import circuit as figure
    from workbench.files import write_text
    from workbench.model import load_model
    from workbench.prompts import one_token

    directories = transcoder_directories(options.transcoders, options.model)
    model = load_model(options.model)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("attributing latents", total=None)
        graph = attribution_graph(
            model,
            options.prompt,
            read_transcoders(directories, model),
            logits=[int(one_token(model, text)) for text in options.logits] or None,
            against=None if options.against is None else int(one_token(model, options.against)),
            probability=options.probability,
            max_logits=options.max_logits,
            max_latents=options.max_latents,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    circuit = prune(graph, nodes=options.nodes, edges=options.edges)
    if options.out is not None:
        save_circuit(circuit, options.out / "graph.json", slug=options.out.name)
        write_text(options.out / "graph.html", figure(circuit).to_html())
    return circuit
