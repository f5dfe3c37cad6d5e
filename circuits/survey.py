"""A survey: the circuit of every one of a model's tasks, found and tested the same way.

On disk a directory of its settings, and for each task a directory that `Discovery.save` wrote. Each is written as soon
as it is found, so that a survey that was broken off goes on where it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from circuits.discovery import Discovery, discover, load_discovery
from circuits.tasks.registry import TASKS, speaks_tinytown, task_named
from workbench.errors import DamagedFile, PromptError, SettingError
from workbench.files import held, read_json, remove_parts, write_json
from workbench.model import HookedModel

SETTINGS = "survey.json"
TINYTOWN = tuple(name for name in TASKS if name.startswith("tinytown."))
ENGLISH = tuple(name for name in TASKS if name not in TINYTOWN)


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found on each task."""

    model: str
    found: Mapping[str, Discovery]
    without: Mapping[str, str]
    """Tasks that there is no circuit of, and why."""

    def __str__(self) -> str:
        width = max(map(len, (*self.found, *self.without)))
        lines = [
            f"Circuits of {self.model}, each on prompts held out",
            f"{'task':<{width}} edges   share  nodes      f     random 95%      KL    CPR    CMD  CMD random",
        ]
        for name, one in self.found.items():
            circuit, evaluation = one.circuit, one.evaluation
            low, high = evaluation.baseline.interval
            lines.append(
                f"{name:<{width}} {circuit.n_edges:>5}  {circuit.n_edges / circuit.n_possible:>6.1%}  "
                f"{len(circuit.nodes):>5}  {evaluation.f:>5.3f}  {f'{low:.2f} to {high:.2f}':>13}  "
                f"{evaluation.kl:>6.3f}  {one.curves.cpr:>5.3f}  {one.curves.cmd:>5.3f}  {one.random.cmd:>10.3f}"
            )
        return "\n".join([*lines, *(f"{name:<{width}} none: {why}" for name, why in self.without.items())])

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "found": dict(self.found), "without": dict(self.without)}


def tasks_of(model: HookedModel) -> tuple[str, ...]:
    """The tasks that are asked in what a model speaks: Tinytown's, or those in English."""
    return TINYTOWN if speaks_tinytown(model) else ENGLISH


def survey(
    model: HookedModel,
    tasks: Sequence[str] = (),
    method: str = "eap-ig",
    *,
    out: str | Path,
    facts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Survey:
    """`discover` for each task, all of the model's if none is named, with progress on standard error.

    `settings` and `facts` are those of `discover`. What is in `out` already, from a survey with the same settings, is
    read instead. A task that the model has no words for, or in which ablating every edge changes nothing, is noted as
    being without a circuit. Raises `SettingError` if `out` holds anything else, or no task has a circuit.
    """
    named = {name: task_named(name, model) for name in tasks or tasks_of(model)}
    found, without = {}, {}
    with _open(Path(out), {"fingerprint": model.fingerprint, "method": method, **settings}) as path:
        for asked, task in tqdm(named.items(), desc="tasks", leave=False):
            if (path / task.name).exists():
                found[task.name] = load_discovery(path / task.name)
                continue
            try:
                one = discover(model, task, method, **settings, facts={**(facts or {}), "asked": asked})
            except (PromptError, SettingError) as error:
                without[task.name] = str(error)
                continue
            one.save(path / task.name)
            found[task.name] = one
    if not found:
        name, why = next(iter(without.items()))
        raise SettingError(f"no circuit of any task was found in {model.info.name}; {name}: {why}")
    return Survey(model.info.name, found, without)


@contextmanager
def _open(path: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """The directory of a survey, begun or gone on with, kept to this process."""
    file = path / SETTINGS
    if not file.exists():
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise SettingError(
                f"{path} is already there; a survey is written to a new directory, or goes on in its own"
            )
        path.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
    before = read_json(file)
    if not isinstance(before, dict):
        raise DamagedFile(f"{file} is not of a survey")
    if changed := [name for name in settings.keys() | before.keys() if before.get(name) != settings.get(name)]:
        name = min(changed)
        raise SettingError(
            f"{path} holds a survey with another {name}: {before.get(name)}, not {settings.get(name)}; "
            "choose another directory, or the same settings"
        )
    with held(path):
        remove_parts(path)
        yield path
