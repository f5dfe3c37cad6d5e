"""The prompt pairs that a command is asked about: those of a task by its name, or a file of the user's own."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.model import HookedModel
    from workbench.prompts import PromptPairs

GROUP = "workbench.tasks"
"""Entry points under which other rooms announce `task_named(name, model)`, a task that makes prompt pairs."""


def task_pairs(task: str, model: HookedModel, examples: int, seed: int) -> list[PromptPairs]:
    """At least so many pairs, one `PromptPairs` a sentence; of a file, all.

    Raises `SettingError` for an unknown task, `PromptError` for one whose words are not the model's; as `read_pairs`.
    """
    (announced,) = entry_points(group=GROUP)
    return announced.load()(task, model).prompts(model, examples, seed=seed)
