"""Prompts that show something, for the open model."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from app.components.tokens import gap

if TYPE_CHECKING:
    from app.session import Session
    from workbench.model import HookedModel


@dataclass(frozen=True)
class Sample:
    """A prompt, what it shows, and what should come next."""

    name: str
    prompt: str
    answer: str = ""


ENGLISH = (
    Sample("indirect object", "When Mary and John went to the store, John gave a drink to", "Mary"),
    Sample("a fact", "The capital of France is the city of", "Paris"),
    Sample("repetition", "The cat sat on the mat. The cat sat on the", "mat"),
    Sample("agreement", "The keys to the cabinet near the door", "are"),
)
"""Prompts for any model of English."""


def samples(session: "Session") -> tuple[Sample, ...]:
    """Prompts to start from: for the bundled model one a skill, from material that its training never showed."""
    return tinytown(session.model) if session.source == "tinytown" else ENGLISH


def first(session: "Session") -> str:
    """The prompt a page starts with."""
    return samples(session)[0].prompt


NAMES = {"ioi": "indirect object"}
"""Skills that go by another name here."""


@cache
def tinytown(model: "HookedModel") -> tuple[Sample, ...]:
    """The first held-out prompt of every skill of Tinytown, as text."""
    from workbench.tinytown.tasks import TASKS, task_prompts

    found = []
    for skill in TASKS:
        prompts = task_prompts(skill, 1)[0]
        words = model.token_strings([int(token) for token in prompts.clean[0]])
        (answer,) = model.token_strings([int(prompts.answers[0])])
        words = [word.strip() for word in words if word != model.tokenizer.bos_token]
        found.append(Sample(NAMES.get(skill, skill.replace("_", " ")), _joined(model, words), answer.strip()))
    return tuple(found)


def _joined(model: "HookedModel", words: list[str]) -> str:
    """Words as a sentence, without the spaces before signs if it reads as the same tokens."""
    plain = " ".join(words)
    tidy = words[0] + "".join(" " * gap(*pair) + pair[1] for pair in pairwise(words))
    return tidy if model.to_tokens(tidy).tolist() == model.to_tokens(plain).tolist() else plain
