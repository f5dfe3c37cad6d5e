"""`workbench heads`: score every attention head. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.cli.command import Command

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.heads import HeadScores

command = Command(
    summary="Score every head: previous token, duplicate token, induction",
    options="workbench.cli.heads:HeadsOptions",
    run="workbench.cli.heads:run",
    figure="workbench.cli.heads:draw",
)


@dataclass(frozen=True)
class HeadsOptions:
    """Score every attention head on repeated random tokens."""

    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    length: int | None = None
    """Tokens in one copy; by default 50, or as many as fit the context twice."""
    batch: int = 8
    """How many sequences to average over."""
    seed: int = 0
    """Seed of the random tokens."""


def run(options: HeadsOptions) -> HeadScores:
    from workbench.heads import head_scores
    from workbench.model import load_model

    return head_scores(load_model(options.model), length=options.length, batch=options.batch, seed=options.seed)


def draw(result: HeadScores) -> list[go.Figure]:
    from workbench.figures.heads import scores
    from workbench.heads import KINDS

    return [scores(result, kind) for kind in KINDS]
