"""`workbench lens`: the logit lens, or a tuned one, on one prompt; `workbench lens train` makes the latter.

Imports nothing heavy.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from workbench.cli.command import Command
from workbench.errors import TrainingError
from workbench.lens_options import LensTrainOptions

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.lens import LensResult
    from workbench.lens_training import LensStep, LensTraining

command = Command(
    summary="What the model would predict if it stopped after each layer",
    options="workbench.cli.lens:LensOptions",
    run="workbench.cli.lens:run",
    figure="workbench.figures.lens:figure",
)
train = Command(
    summary="Train a tuned lens, which reads each layer through an affine map",
    options="workbench.lens_options:LensTrainOptions",
    run="workbench.cli.lens:run_train",
    figure="workbench.cli.lens:draw_training",
)


@dataclass(frozen=True)
class LensOptions:
    """The logit lens: decode the residual stream after every layer, or what sublayers and heads add to it."""

    prompt: Positional[str]
    """The text to read."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    read: Literal["layers", "stream", "sublayers", "heads"] = "layers"
    """What to decode: the residual stream after each layer, or after attention and MLP (stream); what each sublayer
    adds to it, or each head."""
    tuned: Path | None = None
    """Directory of a tuned lens to read the layers with (see `workbench lens train`)."""
    k: int = 5
    """How many of the most probable tokens to keep."""


def run(options: LensOptions) -> LensResult:
    from workbench.lens import logit_lens
    from workbench.model import load_model
    from workbench.tuned_lens import load_tuned_lens

    model = load_model(options.model)
    tuned = load_tuned_lens(options.tuned, model) if options.tuned else None
    return logit_lens(model, options.prompt, read=options.read, tuned=tuned, k=options.k)


def run_train(options: LensTrainOptions) -> LensTraining:
    """Train with a progress bar. Interrupted, it saves and raises `TrainingError`, which says how to go on."""
    from workbench.cli.progress import progress_bar
    from workbench.lens_training import train_lens

    with progress_bar(options.tokens) as update:

        def show(step: LensStep) -> None:
            kl = sum(step.kl) / len(step.kl)
            update(completed=step.tokens, description=f"KL {kl:.3f}, mean of layers")

        result = train_lens(options, on_step=show)
    if result.interrupted:
        raise TrainingError(
            f"interrupted after {result.tokens:,} of {options.tokens:,} tokens, which are kept; "
            f"to go on: the same command with --resume (out is {shlex.quote(str(result.out))})"
        )
    return result


def draw_training(result: LensTraining) -> go.Figure:
    from workbench.figures.tuned_lens import kl_by_layer

    return kl_by_layer(result.report)
