"""Tasks in short English sentences: agreement, pronouns, capitals."""

import numpy as np

from circuits.tasks.sentences import pairs_from
from circuits.tasks.words import CAPITALS, MEN, NOUNS, WOMEN, need, need_pairs
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

AGREEMENT = (
    "The {subject} near the {attractor}",
    "The {subject} behind the old {attractor}",
    "The {subject} that the {attractor} liked",
    "I think that the {subject} with the {attractor}",
    "We heard that the {subject} next to the {attractor}",
)
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
PRONOUN = (
    "In the end {name} went home because",
    "The neighbours like {name}, and they say that",
    "Last night {name} was so tired that",
    "Everyone knew that {name} was late, but",
    "Before {name} could answer the question,",
)
CAPITAL = (
    "The capital of {country} is",
    "The government of {country} has its seat in",
    "If you fly to the capital of {country}, you will land in",
    "Our train to the capital of {country} arrived in",
)


def agreement(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """The verb for a subject with another noun in between, of the same number or the other.

    Corrupted: the subject is of the other number (Linzen et al. 2016, arXiv:1611.01368; Finlayson et al. 2021).
    """
    nouns = need_pairs(model, NOUNS, "nouns in singular and plural", 6)
    rng = np.random.default_rng(seed)
    groups = []
    for pattern in AGREEMENT:
        clean, corrupted, answers, distractors = [], [], [], []
        for _ in range(-(-n // len(AGREEMENT))):
            subject, attractor = (nouns[i] for i in rng.choice(len(nouns), 2, replace=False))
            number, other = rng.integers(2, size=2)
            verb = VERBS[rng.integers(len(VERBS))]
            clean.append({"subject": subject[number], "attractor": attractor[other]})
            corrupted.append(clean[-1] | {"subject": subject[1 - number]})
            answers.append(verb[number])
            distractors.append(verb[1 - number])
        groups.append(pairs_from(model, "agreement", pattern, clean, corrupted, answers, distractors))
    return groups


def pronoun(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """he or she, after a name (Mathwin et al. 2023). Corrupted: a name of the other gender."""
    names = [need(model, words, what, 6) for words, what in ((WOMEN, "women's names"), (MEN, "men's names"))]
    rng = np.random.default_rng(seed)
    groups = []
    for pattern in PRONOUN:
        clean, corrupted, answers, distractors = [], [], [], []
        for _ in range(-(-n // len(PRONOUN))):
            gender = rng.integers(2)
            clean.append({"name": rng.choice(names[gender])})
            corrupted.append({"name": rng.choice(names[1 - gender])})
            answers.append(("she", "he")[gender])
            distractors.append(("he", "she")[gender])
        groups.append(pairs_from(model, "pronoun", pattern, clean, corrupted, answers, distractors))
    return groups


def capital(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """The capital of a country. Corrupted: another country."""
    known = need_pairs(model, CAPITALS, "countries and capitals", 6)
    rng = np.random.default_rng(seed)
    groups = []
    for pattern in CAPITAL:
        chosen = [rng.choice(len(known), 2, replace=False) for _ in range(-(-n // len(CAPITAL)))]
        rows = [[{"country": known[pair[side]][0]} for pair in chosen] for side in (0, 1)]
        words = [[known[pair[side]][1] for pair in chosen] for side in (0, 1)]
        groups.append(pairs_from(model, "capital", pattern, *rows, *words))
    return groups
