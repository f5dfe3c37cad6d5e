"""Which prompts a circuit is found on, and which it is tested on: never the same."""

import hashlib
from collections.abc import Collection, Iterable, Sequence

import torch

from circuits.tasks.task import Task
from workbench.errors import PromptError, SettingError
from workbench.model import HookedModel
from workbench.prompts import PromptPairs


def draw(task: Task, model: HookedModel, n: int, *, seed: int = 0, sentence: int | None = None) -> list[PromptPairs]:
    """At least `n` pairs of a task, or of one of its sentences, counted from 1.

    Raises `PromptError` as `Task.prompts`, `SettingError` for a sentence that the task does not have.
    """
    if sentence is None:
        return task.prompts(model, n, seed=seed)
    count = len(task.prompts(model, 1, seed=seed))
    if not 1 <= sentence <= count:
        raise SettingError(f"{task.name} has no sentence {sentence}; its sentences are 1 to {count}")
    return [task.prompts(model, n * count, seed=seed)[sentence - 1]]


def halves(groups: Sequence[PromptPairs]) -> tuple[list[PromptPairs], list[PromptPairs]]:
    """Every other pair of each group, and the rest; a pair that comes twice counts once.

    Raises `PromptError` if there are fewer than two.
    """
    order = {digest: number for number, digest in enumerate(dict.fromkeys(digests(groups)))}
    first = {digest for digest, number in order.items() if number % 2 == 0}
    parts = without(groups, order.keys() - first), without(groups, first)
    if not parts[1]:
        raise PromptError("one half of the prompts is held out, so there must be at least two that differ")
    return parts


def without(groups: Iterable[PromptPairs], used: Collection[str] = ()) -> list[PromptPairs]:
    """The pairs whose digests are not among `used`; a pair that comes twice counts once."""
    seen, kept = set(used), []
    for group in groups:
        rows = []
        for row, digest in enumerate(digests([group])):
            if digest not in seen:
                seen.add(digest)
                rows.append(row)
        if rows:
            kept.append(group[rows])
    return kept


def digests(groups: Iterable[PromptPairs]) -> list[str]:
    """A name for each pair, by which it is known again: of its clean and its corrupted tokens."""
    pairs = (row for group in groups for row in torch.cat([group.clean, group.corrupted], dim=1).tolist())
    return [hashlib.sha256(repr(pair).encode()).hexdigest()[:16] for pair in pairs]
