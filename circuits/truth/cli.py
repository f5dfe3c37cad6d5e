"""`workbench circuit truth`: which methods find the true edges. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from circuits.options import MethodName
from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    from circuits.truth.table import TruthTable

truth = Command(
    summary="Try every method on models whose circuit is known",
    options="circuits.truth.cli:TruthOptions",
    run="circuits.truth.cli:run",
    figure="workbench.figures.truth:figure",
)

ProgramName = Literal["reverse", "fraction", "next_in_order", "most_frequent", "or_gate", "micro", "forced"]


@dataclass(frozen=True)
class TruthOptions:
    """How well each method tells true edges from others, on programs compiled to weights: AUROC and pessimistic AUC.

    Methods are run under zero and under resample ablation. Each is held against the wiring (structural edges) and
    against the edges that change a logit if they alone are ablated (behavioural edges), by zero or by resampling.
    """

    programs: tuple[ProgramName, ...] = tuple(name for name in get_args(ProgramName) if name != "forced")
    """Which models; "forced" is one that is trained to have the circuit of "reverse", in about a minute."""
    methods: tuple[MethodName, ...] = get_args(MethodName)
    """Which methods, as of `workbench circuit find`."""
    seed: int = 0
    """Of learned masks and random rankings."""

    def __post_init__(self) -> None:
        if not self.programs or not self.methods:
            raise SettingError("name at least one program and one method")


def run(options: TruthOptions) -> TruthTable:
    from circuits.truth.table import truth_table

    return truth_table(options.programs, options.methods, seed=options.seed)
