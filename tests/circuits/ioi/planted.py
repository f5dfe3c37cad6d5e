"""Models with a known circuit for indirect object identification, compiled from programs."""

import random

import torch

from circuits.truth.compiler import Head, Layer, Program, Score, Variable, compile_program
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

BEGIN, END = "^", ">"
NAMES = tuple("abcdefgh")
TOKEN = Variable("token", (*NAMES, BEGIN, "and", "went", END))
POSITION = Variable("position", tuple(range(8)))
FOUND, SUBJECT, SAID = (Variable(name, NAMES) for name in ("found", "subject", "said"))
PREVIOUS = Variable("previous", NAMES)


def is_same(query: str, key: str) -> int:
    return int(query == key)


def name_only(label: str) -> str | None:
    return label if label in NAMES else None


FROM_BEFORE = Score(POSITION, POSITION, lambda query, key: is_same(query, key + 1))
EARLIER = Score(POSITION, POSITION, lambda query, key: 2 * (key < query))
PREVIOUS_TOKEN = Head(PREVIOUS, TOKEN, (FROM_BEFORE,), name_only)
# The earlier copy scores 6, the beginning, where there is nothing to say, 5, the token itself 4.
DUPLICATE_TOKEN = Head(
    FOUND,
    TOKEN,
    (
        Score(TOKEN, TOKEN, lambda query, key: 4 * is_same(query, key)),
        Score(None, TOKEN, lambda key: 3 * is_same(key, BEGIN)),
        EARLIER,
    ),
    name_only,
)
INDUCTION = Head(
    FOUND,
    PREVIOUS,
    (
        Score(TOKEN, PREVIOUS, lambda query, key: 2 * is_same(query, key)),
        Score(None, TOKEN, lambda key: is_same(key, BEGIN)),
    ),
)
S_INHIBITION = Head(SUBJECT, FOUND, (Score(None, FOUND, lambda key: 1),))
NAME_MOVER = Head(
    SAID,
    TOKEN,
    (
        Score(None, TOKEN, lambda key: 2 * (key in NAMES)),
        Score(SUBJECT, TOKEN, lambda query, key: -2 * is_same(query, key)),
    ),
    name_only,
)
# Says both names, the subject's twice as much.
BOTH_NAMES = Head(SAID, TOKEN, (Score(None, TOKEN, lambda key: int(key in NAMES)),), name_only)
UNUSED = Head(Variable("unused", NAMES), TOKEN, (FROM_BEFORE,), name_only)


def planted(*layers: tuple[Head, ...]) -> HookedModel:
    stack = tuple(Layer(heads) for heads in layers)
    return compile_program(Program("planted", "", "", TOKEN, POSITION, stack, SAID, lambda _: {}, lambda: ()))


def prompts(n: int = 24, seed: int = 0) -> list[PromptPairs]:
    """`^ IO and S went S >`, and the same with the subject first."""
    draw, groups = random.Random(seed), []
    for subject_first in (False, True):
        rows, answers, distractors = [], [], []
        for _ in range(n // 2):
            io, s = draw.sample(range(len(NAMES)), 2)
            first, second = (s, io) if subject_first else (io, s)
            begin, and_, went, end = (TOKEN.labels.index(word) for word in (BEGIN, "and", "went", END))
            rows.append([begin, first, and_, second, went, s, end])
            answers.append(io)
            distractors.append(s)
        clean = torch.tensor(rows)
        groups.append(PromptPairs("ioi", clean, clean, torch.tensor(answers), torch.tensor(distractors)))
    return groups
