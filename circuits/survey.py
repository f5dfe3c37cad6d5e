"""A survey: the circuit of every one of a model's tasks, found and tested the same way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from circuits.discovery import Discovery, discover
from circuits.tasks.registry import TASKS
from workbench.model import HookedModel

TINYTOWN = tuple(name for name in TASKS if name.startswith("tinytown."))


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found on each task."""

    found: dict[str, Discovery]

    def __str__(self) -> str:
        lines = [f"{'task':<26} edges   share  nodes      f   random 95%        KL    CPR    CMD  CMD random"]
        for name, one in self.found.items():
            circuit, evaluation = one.circuit, one.evaluation
            low, high = evaluation.baseline.interval
            lines.append(
                f"{name:<26} {circuit.n_edges:>5}  {circuit.n_edges / circuit.n_possible:>6.1%}  "
                f"{len(circuit.nodes):>5}  "
                f"{evaluation.f:>5.3f}  {low:>5.2f} to {high:<5.2f}  {evaluation.kl:>6.3f}  {one.curves.cpr:>5.3f}  "
                f"{one.curves.cmd:>5.3f}  {one.random.cmd:>5.3f}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {name: one.to_dict() for name, one in self.found.items()}


def survey(
    model: HookedModel,
    tasks: Sequence[str] = TINYTOWN,
    method: str = "eap-ig",
    *,
    edges: float = 0.1,
    n: int = 100,
    seed: int = 0,
) -> Survey:
    """`discover` for each task, with progress on standard error."""
    progress = tqdm(tasks, desc="tasks", leave=False)
    return Survey({name: discover(model, TASKS[name], method, edges=edges, n=n, seed=seed) for name in progress})
