"""Sentence patterns, and filling many copies of one at once.

A pattern is words separated by spaces. `{name}` is a variable: its domain is its name without trailing digits, so
`{name}` and `{name2}` are two different names. `{name.he}` is a form of the same variable, `{went|ran}` a free choice
of words. `<inside_quotes> … </inside_quotes>` marks the words between with a concept, `word^negated` one word. `=>`
stands before the word that a skill is about: what comes before it is the prompt, the word after it the answer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from workbench.tinytown.lexicon import DOMAINS


@dataclass(frozen=True)
class Slot:
    """One word of a pattern: the words it may be (one for a literal), and the variable that chooses among them."""

    words: tuple[str, ...]
    variable: str | None
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A sentence pattern with what makes it a skill: the corrupted prompt, the wrong answer, and what is held out."""

    text: str
    corrupted: str = ""
    """The prompt that asks for the distractor instead, of the same length as the clean one."""
    distractor: str = ""
    """The wrong answer, a word or a variable."""
    key: tuple[str, ...] = ()
    """The variables whose combinations are split into those seen in training and those held out."""
    salt: int = 0
    """Distinguishes the splits of templates that share a key: a fact is held out in some phrasings, not in all."""
    where: tuple[tuple[str, str], ...] = ()
    """Pairs of variables of which the first must come before the second in their domain's order."""

    @cached_property
    def sentence(self) -> tuple[Slot, ...]:
        return parse(" ".join(word for word in self.text.split() if word != "=>"))

    @cached_property
    def _asked(self) -> int:
        """The position of the answer in the sentence."""
        return [slot.words for slot in parse(self.text)].index(("=>",))

    @property
    def prompt(self) -> tuple[Slot, ...]:
        return self.sentence[: self._asked]

    @property
    def answer(self) -> tuple[Slot, ...]:
        return self.sentence[self._asked : self._asked + 1]

    @cached_property
    def corrupted_prompt(self) -> tuple[Slot, ...]:
        return parse(self.corrupted)

    @cached_property
    def wrong_answer(self) -> tuple[Slot, ...]:
        return parse(self.distractor)


def parse(text: str) -> tuple[Slot, ...]:
    """The slots of a pattern, spans resolved into the concepts of each word."""
    spans: list[str] = []
    slots: list[Slot] = []
    for word in text.split():
        if opened := re.fullmatch(r"<(\w+)>", word):
            spans.append(opened[1])
        elif closed := re.fullmatch(r"</(\w+)>", word):
            spans.remove(closed[1])
        else:
            body, *marks = word.split("^")
            slots.append(_slot(body, len(slots), (*spans, *marks)))
    if spans:
        raise ValueError(f"unclosed span {spans[-1]!r} in {text!r}")
    return tuple(slots)


def _slot(body: str, position: int, concepts: tuple[str, ...]) -> Slot:
    variable = re.fullmatch(r"\{(.+)\}", body)
    if not variable:
        return Slot((body,), None, concepts)
    if "|" in variable[1]:
        return Slot(tuple(variable[1].split("|")), f"choice {position} {variable[1]}", concepts)
    name, _, form = variable[1].partition(".")
    return Slot(DOMAINS[domain_of(name)].forms[form], name, concepts)


def domain_of(variable: str) -> str:
    return variable.rstrip("0123456789")


Values = Mapping[str, NDArray[np.int64]]


def sizes(*patterns: Sequence[Slot]) -> dict[str, int]:
    """Every variable of the patterns with the number of values it can take."""
    return {slot.variable: len(slot.words) for pattern in patterns for slot in pattern if slot.variable}


def draw(
    variables: Mapping[str, int],
    n: int,
    rng: np.random.Generator,
    template: Template,
    held_out: bool | None,
    given: Values | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Values for `n` copies, uniform over what is allowed.

    Variables of one domain differ from each other, `where` holds, and the key is on the wanted side of the split
    (`held_out` None: either side). Rows that break a rule are drawn again; values in `given` are kept as they are, so
    a rule among given values alone is the caller's to keep.
    """
    given = given or {}
    values = {name: given[name] if name in given else rng.integers(size, size=n) for name, size in variables.items()}
    free = [name for name in variables if name not in given]
    rules = list(_rules(variables, template, held_out, given))
    rows = np.arange(n)
    while free and rules:
        broken = np.zeros(len(rows), dtype=bool)
        for names, rule in rules:
            broken |= rule(*(values[name][rows] for name in names))
        rows = rows[broken]
        if not len(rows):
            break
        for name in free:
            values[name][rows] = rng.integers(variables[name], size=len(rows))
    return values


def _rules(variables: Mapping[str, int], template: Template, held_out: bool | None, given: Values) -> Iterator[tuple]:
    """`(variables, values -> broken)` for every rule that has a free variable to satisfy it with."""
    names = [name for name in variables if not name.startswith("choice")]
    for i, one in enumerate(names):
        for other in names[:i]:
            if domain_of(one) == domain_of(other) and not (one in given and other in given):
                yield (one, other), np.equal
    for earlier, later in template.where:
        if earlier in variables and later in variables:
            yield (earlier, later), np.greater_equal
    if template.key and held_out is not None and not all(name in given for name in template.key):
        yield template.key, lambda *key: is_held_out(*key, salt=template.salt) != held_out


def is_held_out(*key: NDArray[np.int64], salt: int = 0) -> NDArray[np.bool_]:
    """Whether combinations of values are kept out of training. The order of the values does not matter.

    Of one variable every seventh value is (days are the smallest domain), of several about a tenth of the combinations.
    """
    if len(key) == 1:
        return (key[0] + salt) % 7 == 0
    mixed = np.full(np.shape(key[0]), salt + 1, dtype=np.uint64)
    for values in np.sort(np.stack(np.broadcast_arrays(*key)), axis=0).astype(np.uint64):
        mixed = (mixed * np.uint64(1_000_003) + values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(11)) % np.uint64(10) == 0
