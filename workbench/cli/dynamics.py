"""`workbench dynamics`: the same analyses over a sequence of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.checkpoint_study import CheckpointStudy
from workbench.cli.command import Command
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.dynamics import Dynamics

command = Command(
    summary="Follow heads, loss, in-context learning and tasks over the checkpoints of a training",
    options="workbench.cli.dynamics:DynamicsOptions",
    run="workbench.cli.dynamics:run",
    figure="workbench.figures.dynamics:curves",
)


@dataclass(frozen=True, kw_only=True)
class DynamicsOptions(CheckpointStudy):
    """Measure the checkpoints of a training, one after the other, and say when circuits form."""

    checkpoints: tuple[str, ...]
    """Model directories, or patterns such as 'runs/model-checkpoints/*'; the last number in a name orders them."""
    out: Path | None = None
    """A file of JSON lines that keeps what was measured; run again, the command measures only what is missing."""


def run(options: DynamicsOptions) -> Dynamics:
    """Measure with a progress bar. Interrupted, it says what is kept and how to go on."""
    from workbench.cli.progress import progress_bar
    from workbench.dynamics import Snapshot, dynamics

    study = CheckpointStudy(**{field.name: getattr(options, field.name) for field in fields(CheckpointStudy)})
    with progress_bar() as update:

        def show(done: int, of: int, snapshot: Snapshot) -> None:
            update(completed=done, total=of, description=f"{snapshot.name}: loss {snapshot.loss:.3f}")

        try:
            return dynamics(options.checkpoints, study, log=options.out, on_snapshot=show)
        except KeyboardInterrupt:
            if options.out is None:
                raise
            raise WorkbenchError(
                f"interrupted; {options.out} keeps what was measured, and the same command goes on"
            ) from None
