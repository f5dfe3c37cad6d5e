"""The prompt pairs that a command is asked about: a task of Tinytown by its name, or a file of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import SettingError

if TYPE_CHECKING:
    from workbench.model import HookedModel
    from workbench.prompts import PromptPairs


def task_pairs(task: str, model: HookedModel, examples: int, seed: int) -> list[PromptPairs]:
    """Raises `SettingError` for an unknown task, or one in words that the model does not know; as `read_pairs`."""
    from workbench.prompts import read_pairs
    from workbench.tinytown.language import Language
    from workbench.tinytown.tasks import task_prompts

    if Path(task).suffix in (".jsonl", ".csv"):
        return read_pairs(task, model)
    language = Language()
    if model.tokenizer is None or model.tokenizer.get_vocab() != language.ids:
        raise SettingError(f"the tasks of Tinytown are in words that {model.info.name} does not know; give a file")
    return task_prompts(task, examples, seed=seed, language=language)
