"""`workbench circuit roles`: which head plays which role. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.command import Command

if TYPE_CHECKING:
    from circuits.ioi.roles import IOIRoles

roles = Command(
    summary="Which head plays which role in indirect object identification",
    options="circuits.ioi.cli:RolesOptions",
    run="circuits.ioi.cli:run",
)


@dataclass(frozen=True)
class RolesOptions:
    """The roles of Wang et al. 2022 by path patching: name movers, S-inhibition, duplicate token, induction, ..."""

    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    task: str = "ioi"
    """"ioi", or a .csv or .jsonl file of prompts that name the answer once and the distractor twice."""
    n: int = 200
    """How many prompts, at least."""
    effect: float = 0.05
    """The least effect that makes a role, as a share of the logit difference."""
    backup: float = 0.02
    """The least effect of backup name movers."""
    attention: float = 0.2
    """The least mean attention that confirms a role."""
    copying: float = 0.5
    """The least copying score that confirms a name mover."""
    seed: int = 0
    """Seed of the prompts, and of the names that take the others' place."""
    out: Path | None = None
    """A file for the map of roles and the effects of every step: one HTML page."""


def run(options: RolesOptions) -> IOIRoles:
    from circuits.ioi.roles import Thresholds
    from circuits.ioi.search import ioi_roles
    from circuits.tasks.registry import task_named
    from workbench.cli.progress import progress_bar
    from workbench.figures import roles as figures
    from workbench.figures.page import page
    from workbench.files import write_text
    from workbench.model import load_model

    thresholds = Thresholds(options.effect, options.backup, options.attention, options.copying)
    model = load_model(options.model)
    pairs = task_named(options.task, model).prompts(model, options.n, seed=options.seed)
    with progress_bar() as show:
        found = ioi_roles(
            model,
            pairs,
            thresholds=thresholds,
            seed=options.seed,
            on_progress=lambda done, total: show(completed=done, total=total),
        )
    if options.out is not None:
        numbers = [("logit difference", f"{found.clean.mean():.2f}", f"mean of {len(found.clean)} prompts")]
        drawn = [figures.figure(found), *(figures.step(found, receivers) for receivers in found.steps)]
        write_text(options.out, page(f"Roles of heads in {found.model}", str(found.task), numbers, drawn))
    return found
