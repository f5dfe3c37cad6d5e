"""`workbench patchscopes`: what activations of one prompt say when put into another. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.patchscopes import Patchscopes

command = Command(
    summary="What one prompt's activations say when they are put into another prompt",
    options="workbench.cli.patchscopes:PatchscopesOptions",
    run="workbench.cli.patchscopes:run",
    figure="workbench.cli.patchscopes:draw",
)


@dataclass(frozen=True)
class PatchscopesOptions:
    """Patchscopes: put the residual stream after each layer of SOURCE into TARGET, and read what TARGET then says."""

    source: Positional[str]
    """The text whose activations are asked about."""
    target: Positional[str]
    """The text that they are put into, such as "cat cat ; dog dog ; ?", after which the model says what it is given."""
    position: int = -1
    """Where in the target; from its end, if negative."""
    layer: int | None = None
    """After which layer they are inserted; by default the one that they come from."""
    new_tokens: int = 0
    """How many tokens the target goes on to write; 0: only its next token is read."""
    tuned: Path | None = None
    """Directory of a tuned lens, whose maps the activations are sent through (see `workbench lens train`)."""
    k: int = 5
    """How many of the most probable tokens to keep."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""

    def __post_init__(self) -> None:
        if self.new_tokens < 0:
            raise SettingError(f"--new-tokens must be 0 or more, not {self.new_tokens}")


def run(options: PatchscopesOptions) -> Patchscopes:
    from workbench.model import load_model
    from workbench.patchscopes import patchscopes
    from workbench.tuned_lens import load_tuned_lens

    model = load_model(options.model)
    mapping = load_tuned_lens(options.tuned, model).translate if options.tuned else None
    return patchscopes(
        model,
        options.source,
        options.target,
        position=options.position,
        layer=options.layer,
        mapping=mapping,
        max_new_tokens=options.new_tokens,
        k=options.k,
    )


def draw(result: Patchscopes) -> go.Figure:
    from workbench.figures.lens import figure

    return figure(result.readings)
