"""Edges of each position for themselves: only where a position means the same in every prompt."""

from collections.abc import Sequence

from workbench.errors import SettingError
from workbench.model import HookedModel
from workbench.prompts import PromptPairs


def check_aligned(groups: Sequence[PromptPairs], task: str) -> None:
    """Raises `SettingError` if positions do not mean the same in all of some groups (the sentences of a task)."""
    kinds = {(group.clean.shape[1], tuple(sorted(group.positions.items()))) for group in groups}
    if len(kinds) > 1:
        raise SettingError(
            f"positions do not mean the same in the {len(groups)} sentences of {task}; take one of them, "
            f"--sentence 1 to --sentence {len(groups)}"
        )


def labels(groups: Sequence[PromptPairs], model: HookedModel) -> list[str]:
    """What stands at each position: the token that all prompts have there, or the position's name, or "…"."""
    first = groups[0].clean[0]
    fixed = [all(bool((group.clean[:, at] == token).all()) for group in groups) for at, token in enumerate(first)]
    names = {at: name for name, at in reversed(groups[0].positions.items()) if name != "end"}
    tokens = model.token_strings(first)
    return [tokens[at].strip() if alike else names.get(at, "…") for at, alike in enumerate(fixed)]
