"""Commands of the circuits room. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.cli.command import Command

if TYPE_CHECKING:
    from circuits.heads import HeadScores

heads = Command(
    summary="Score every head: previous token, duplicate token, induction",
    options="circuits.cli:HeadsOptions",
    run="circuits.cli:run_heads",
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


def run_heads(options: HeadsOptions) -> HeadScores:
    from circuits.heads import head_scores
    from workbench.model import load_model

    return head_scores(load_model(options.model), length=options.length, batch=options.batch, seed=options.seed)
