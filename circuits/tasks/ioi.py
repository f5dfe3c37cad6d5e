"""Indirect object identification (Wang et al. 2022, arXiv:2211.00593): two names, one comes again; who is the other?

Every sentence is told in two orders, ABBA and BABA: the indirect object first, or the subject first. Corrupted, either
the second subject becomes the indirect object's name, which turns the answer around, or all three names become others
(the paper's p_ABC), to which neither name is an answer.
"""

from dataclasses import replace

import numpy as np

from circuits.tasks.sentences import pairs_from
from circuits.tasks.words import MEN, PLACES, THINGS, WOMEN, need
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

SENTENCES = (
    "Then {1} and {2} went to the {place}, and {S2} handed a {thing} to",
    "When {1} and {2} got to the {place}, {S2} wanted to give a {thing} to",
    "After {1} and {2} had lunch at the {place}, {S2} passed a {thing} to",
    "While {1} and {2} were working at the {place}, {S2} offered a {thing} to",
    "Yesterday {1} and {2} met behind the {place}, where {S2} showed a {thing} to",
    "Once {1} and {2} had left the {place}, {S2} sold a {thing} to",
    "Since {1} and {2} were bored at the {place}, {S2} threw a {thing} to",
    "The day that {1} and {2} found a {thing} near the {place}, {S2} gave it to",
    "In the evening {1} and {2} sat outside the {place}. Later {S2} lent a {thing} to",
    "Friends of {1} and {2} bought a {place} last year. On the first day {S2} brought a {thing} to",
    "Because {1} and {2} were late at the {place}, {S2} took a {thing} to",
    "Everyone saw {1} and {2} at the {place}. Before long {S2} mailed a {thing} to",
    "Last week {1} and {2} visited the {place}, and afterwards {S2} sent a {thing} to",
    "There was a {thing} at the {place} when {1} and {2} arrived, so {S2} carried it to",
    "It was late when {1} and {2} reached the {place}, and {S2} returned the {thing} to",
)


def swapped(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """Corrupted: the second subject is the indirect object's name."""
    return _ioi(model, n, seed, "ioi")


def abc(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """Corrupted: three other names."""
    return _ioi(model, n, seed, "ioi_abc")


def _ioi(model: HookedModel, n: int, seed: int, name: str) -> list[PromptPairs]:
    names = need(model, [*WOMEN, *MEN], "names", 8)
    places, things = need(model, PLACES, "places", 4), need(model, THINGS, "things", 4)
    rng = np.random.default_rng(seed)
    orders = (("{IO}", "{S1}"), ("{S1}", "{IO}"))
    patterns = [text.replace("{1}", first).replace("{2}", second) for text in SENTENCES for first, second in orders]
    groups = []
    for pattern in patterns:
        clean, corrupted = [], []
        for _ in range(-(-n // len(patterns))):
            io, s, *others = (names[i] for i in rng.choice(len(names), 5, replace=False))
            row = {"place": rng.choice(places), "thing": rng.choice(things)} | _names(io, s, s)
            clean.append(row)
            corrupted.append(row | (_names(io, s, io) if name == "ioi" else _names(*others)))
        answers, distractors = [row["IO"] for row in clean], [row["S1"] for row in clean]
        pairs = pairs_from(model, name, pattern, clean, corrupted, answers, distractors)
        positions = {**pairs.positions, "S1+1": pairs.positions["S1"] + 1}
        groups.append(replace(pairs, positions=dict(sorted(positions.items(), key=lambda item: item[1]))))
    return groups


def _names(io: str, s1: str, s2: str) -> dict[str, str]:
    return {"IO": io, "S1": s1, "S2": s2}
