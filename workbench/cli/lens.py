"""`workbench lens`: the logit lens on one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import Positional

from workbench.cli.command import Command

if TYPE_CHECKING:
    from workbench.lens import LensResult

command = Command(
    summary="What the model would predict if it stopped after each layer",
    options="workbench.cli.lens:LensOptions",
    run="workbench.cli.lens:run",
)


@dataclass(frozen=True)
class LensOptions:
    """The logit lens: decode the residual stream after every layer."""

    prompt: Positional[str]
    """The text to read."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    k: int = 5
    """How many of the most probable tokens to keep."""


def run(options: LensOptions) -> LensResult:
    from workbench.lens import logit_lens
    from workbench.model import load_model

    return logit_lens(load_model(options.model), options.prompt, k=options.k)
