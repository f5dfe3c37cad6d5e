"""Prompt pairs: a clean prompt, a corrupted one of the same length to which another answer is right, and both answers.

They are what patching, attribution and circuits are measured on. The prompts of one `PromptPairs` have one length, so
that a position means the same in all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.errors import DamagedFile, PromptError
from workbench.files import read_records
from workbench.model import HookedModel

FIELDS = ("clean", "corrupted", "answer", "distractor")


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Prompt pairs of one length, as tokens on the CPU; row i of each tensor belongs together.

    Raises `PromptError` if the tensors do not fit each other.
    """

    name: str
    """What is asked: the name of a task, or of a file."""
    clean: Int[Tensor, "example pos"]
    corrupted: Int[Tensor, "example_ pos_"]
    """To these prompts the distractors are the answers, or there is no telling (as for IOI with three other names)."""
    answers: Int[Tensor, " answer"]
    distractors: Int[Tensor, " distractor"]
    pattern: str = ""
    """The sentence that the prompts are made from, if there is one."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """Positions that have a name, such as where the subject stands."""
    choices: Int[Tensor, " choice"] | None = None
    """The tokens that an answer is chosen from, if a prompt has many right answers and many wrong ones."""
    right: Bool[Tensor, "answer_ choice_"] | None = None
    """Which of the choices are right."""

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupted.shape:
            clean, corrupted = list(self.clean.shape), list(self.corrupted.shape)
            raise PromptError(f"clean prompts are {clean} and corrupted ones {corrupted}; they must be of one length")
        if not len(self.clean) == len(self.answers) == len(self.distractors):
            counts = f"{len(self.clean)} prompts, {len(self.answers)} answers, {len(self.distractors)} distractors"
            raise PromptError(f"there are {counts}; there must be as many of each")
        if (self.choices is None) != (self.right is None):
            raise PromptError("choices and which of them are right go together")
        if self.right is not None and self.right.shape != (len(self), len(self.choices)):
            wanted = [len(self), len(self.choices)]
            raise PromptError(f"right is {list(self.right.shape)}; for these prompts and choices it must be {wanted}")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice | list[int]) -> "PromptPairs":
        columns = {name: getattr(self, name)[rows] for name in ("clean", "corrupted", "answers", "distractors")}
        return replace(self, **columns, right=None if self.right is None else self.right[rows])


def prompt_pairs(
    model: HookedModel,
    clean: Sequence[str],
    corrupted: Sequence[str],
    answers: Sequence[str],
    distractors: Sequence[str],
    *,
    name: str = "prompts",
) -> PromptPairs:
    """Pairs from texts. Raises `PromptError` for prompts of unequal length and answers of more than one token."""
    if not len(clean) == len(corrupted) == len(answers) == len(distractors):
        raise PromptError("clean, corrupted, answers and distractors must be as many of each")
    rows = [_pair(model, *texts) for texts in zip(clean, corrupted, answers, distractors, strict=True)]
    lengths = sorted({len(row[0]) for row in rows})
    if len(lengths) != 1:
        found = f"they have {lengths[0]} to {lengths[-1]} tokens" if lengths else "there are none"
        raise PromptError(f"prompts that are patched together must be of one length; {found}")
    return _stacked(name, rows)


def read_pairs(path: str | Path, model: HookedModel) -> list[PromptPairs]:
    """Pairs from a .jsonl or .csv file with the fields `clean`, `corrupted`, `answer`, `distractor`, grouped by length.

    Raises `DamagedFile` for a file that is not that, `PromptError` for a pair that cannot be used; both name the line.
    """
    path = Path(path)
    groups: dict[int, list] = {}
    for number, record in read_records(path):
        if missing := [name for name in FIELDS if not isinstance(record.get(name), str)]:
            raise DamagedFile(f"{path}, line {number}: no text {missing[0]!r}; each line has {', '.join(FIELDS)}")
        try:
            row = _pair(model, *(record[name] for name in FIELDS))
        except PromptError as error:
            raise PromptError(f"{path}, line {number}: {error}") from None
        groups.setdefault(len(row[0]), []).append(row)
    if not groups:
        raise DamagedFile(f"{path} holds no prompt pairs")
    return [_stacked(path.stem, rows) for _, rows in sorted(groups.items())]


def _pair(model: HookedModel, clean: str, corrupted: str, answer: str, distractor: str) -> tuple[Tensor, ...]:
    prompts = [model.to_tokens(text)[0].cpu() for text in (clean, corrupted)]
    if len(prompts[0]) != len(prompts[1]):
        lengths = f"{len(prompts[0])} and {len(prompts[1])} tokens"
        raise PromptError(f"{clean!r} and {corrupted!r} have {lengths}; a pair must be of one length")
    return (*prompts, *(one_token(model, text) for text in (answer, distractor)))


def one_token(model: HookedModel, text: str) -> Int[Tensor, ""]:
    """The token that a text is. Raises `PromptError` if it is several."""
    tokens = model.to_tokens(text, prepend_bos=False)[0].cpu()
    if len(tokens) != 1:
        pieces = " ".join(map(repr, model.token_strings(tokens)))
        raise PromptError(f"an answer must be one token; {text!r} is {len(tokens)}: {pieces}")
    return tokens[0]


def _stacked(name: str, rows: list[tuple[Tensor, ...]]) -> PromptPairs:
    return PromptPairs(name, *(torch.stack(column) for column in zip(*rows, strict=True)))
