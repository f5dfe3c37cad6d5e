"""The skills as tasks: clean and corrupted prompts of equal length, answers and distractors, on held-out material."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.errors import SettingError
from workbench.prompts import PromptPairs
from workbench.tinytown.language import BOS, SPECIAL, Language
from workbench.tinytown.skills import SKILLS
from workbench.tinytown.template import Template, draw, is_held_out, sizes

TASKS: tuple[str, ...] = (*SKILLS, "induction")


_ROLES = {
    "ioi": {"name": "IO", "name2": "S"},
    "agreement": {"noun": "subject", "noun2": "attractor"},
    "code_lookup": {"variable": "asked", "variable2": "other", "variable3": "third"},
}
"""What the variables of a skill's patterns are called where they name positions; others keep their names."""


def task_prompts(
    skill: str, n: int, *, seed: int = 0, held_out: bool = True, language: Language | None = None
) -> list[PromptPairs]:
    """At least `n` examples of a skill, spread evenly over its sentence patterns, one `PromptPairs` a pattern.

    Positions are named after what stands there: `IO`, `S1`, `S1+1`, `S2` for the names of IOI, the variables of the
    pattern otherwise (numbered, if one comes more than once), and `end`.
    With `held_out` every example has a combination that training never showed: a pair of names, a fact in a phrasing,
    a sequence of words. Raises `SettingError` for an unknown skill.
    """
    if skill not in TASKS:
        raise SettingError(f"no task {skill!r}; the tasks are {', '.join(TASKS)}")
    language = language or Language()
    rng = np.random.default_rng((seed, TASKS.index(skill)))
    if skill == "induction":
        return list(_induction(language, rng, n, held_out))
    templates = SKILLS[skill]
    each = -(-n // len(templates))
    return [_prompts(language, rng, skill, template, each, held_out) for template in templates]


def _prompts(
    language: Language, rng: np.random.Generator, skill: str, template: Template, n: int, held_out: bool
) -> PromptPairs:
    variables = sizes(template.prompt, template.corrupted_prompt, template.answer, template.wrong_answer)
    values = draw(variables, n, rng, template, held_out)
    bos = np.full((n, 1), language.ids[BOS])
    return _pairs(
        skill,
        template.text,
        _positions(template, _ROLES.get(skill, {})),
        clean=np.hstack([bos, language.spell(template.prompt, values, n)]),
        corrupted=np.hstack([bos, language.spell(template.corrupted_prompt, values, n)]),
        answers=language.spell(template.answer, values, n)[:, 0],
        distractors=language.spell(template.wrong_answer, values, n)[:, 0],
    )


def _positions(template: Template, roles: Mapping[str, str]) -> dict[str, int]:
    """Where the variables of a prompt stand, behind its `<bos>`."""
    places: dict[str, list[int]] = {}
    for position, slot in enumerate(template.prompt, start=1):
        if slot.variable and not slot.variable.startswith("choice"):
            places.setdefault(roles.get(slot.variable, slot.variable), []).append(position)
    named = {}
    for name, found in places.items():
        named |= {name if len(found) == 1 else f"{name}{number}": at for number, at in enumerate(found, start=1)}
    if "S1" in named:
        named["S1+1"] = named["S1"] + 1
    return dict(sorted(named.items(), key=lambda item: item[1])) | {"end": len(template.prompt)}


def _pairs(skill: str, pattern: str, positions: dict[str, int], **columns: NDArray[np.int64]) -> PromptPairs:
    tensors = {name: torch.from_numpy(ids) for name, ids in columns.items()}
    return PromptPairs(skill, pattern=pattern, positions=positions, **tensors)


def _induction(
    language: Language, rng: np.random.Generator, n: int, held_out: bool, gaps: tuple[int, ...] = (4, 10, 20, 40)
) -> Iterator[PromptPairs]:
    """`… A B … A` asks for B; corrupted, B was another word. A and B never stood side by side in training's texts."""
    for gap in gaps:
        each = -(-n // len(gaps))
        vocabulary = len(language.words)
        words = np.empty((each, gap + 4), dtype=np.int64)
        for row in range(each):
            words[row] = rng.permutation(np.arange(len(SPECIAL), vocabulary))[: gap + 4]
        answer, distractor = words[:, -1], words[:, -2]
        while True:
            broken = (is_held_out(words[:, 1], answer, salt=7) != held_out) | (words[:, :-1] == words[:, -1:]).any(1)
            if not broken.any():
                break
            answer[broken] = rng.integers(len(SPECIAL), vocabulary, size=int(broken.sum()))
        bos = np.full((each, 1), language.ids[BOS])
        head, middle = words[:, :2], words[:, 2 : gap + 2]
        clean, corrupted = (np.hstack([bos, head, word[:, None], middle, head[:, 1:]]) for word in (answer, distractor))
        yield _pairs(
            "induction",
            f"… A B and {gap} words, then A",
            {"A1": 2, "B": 3, "A2": gap + 4, "end": gap + 4},
            clean=clean,
            corrupted=corrupted,
            answers=answer.copy(),
            distractors=distractor.copy(),
        )
