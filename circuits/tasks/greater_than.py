"""Greater-than (Hanna, Liu & Variengien 2023, arXiv:2305.00586): a war that began in 1732 ended in a later year.

"The war lasted from the year 1732 to the year 17": every two digits above 32 are right, the others wrong. Corrupted,
the start year ends in 01. The metric is the probability of all right years less that of all wrong ones.
"""

from dataclasses import replace

import numpy as np
import torch

from circuits.tasks.sentences import pairs_from
from circuits.tasks.words import EVENTS, need, single_tokens
from workbench.errors import PromptError
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

PATTERN = "The {event} lasted from the year {XX}{YY} to the year {_century}"
CENTURIES = tuple(str(century) for century in range(11, 18))
YEARS = tuple(f"{year:02}" for year in range(100))
FIRST, LAST = 2, 98
"""Start years: there is at least one year between 01 and them, and one after."""


def greater_than(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """One sentence, many events and years. `answers` and `distractors` are a right and a wrong year each."""
    events = need(model, EVENTS, "events", 4)
    digits, starts = _numbers(model)
    rng = np.random.default_rng(seed)
    clean, corrupted, right = [], [], torch.zeros(n, len(YEARS), dtype=torch.bool)
    answers, distractors = torch.zeros(2, n, dtype=torch.long)
    for row in range(n):
        century, year = starts[rng.integers(len(starts))]
        words = {"event": rng.choice(events), "XX": century, "_century": century}
        clean.append(words | {"YY": YEARS[year]})
        corrupted.append(words | {"YY": "01"})
        right[row, year + 1 :] = True
        answers[row] = digits[rng.integers(year + 1, len(YEARS))]
        distractors[row] = digits[rng.integers(0, year)]
    pairs = pairs_from(model, "greater_than", PATTERN, clean, corrupted, answers, distractors)
    return [replace(pairs, choices=digits, right=right)]


def _numbers(model: HookedModel) -> tuple[torch.Tensor, list[tuple[str, int]]]:
    """The tokens of 00 … 99, and the years (century, two digits) that are spelled as the century and one of them.

    Raises `PromptError` if there are none.
    """
    single_tokens(model, ())  # refuses a model without a tokenizer

    def spelled(texts: list[str]) -> list[list[int]]:
        return model.tokenizer(texts, add_special_tokens=False)["input_ids"]

    digits = spelled(list(YEARS))
    centuries = [f"a {century}" for century in CENTURIES]
    starts = []
    if {len(row) for row in digits} == {1} and len({row[0] for row in digits}) == len(YEARS):
        for century, text, before in zip(CENTURIES, centuries, spelled(centuries), strict=True):
            whole = [
                row == before + own for row, own in zip(spelled([text + year for year in YEARS]), digits, strict=True)
            ]
            starts += [(century, year) for year in range(FIRST, LAST + 1) if whole[year] and whole[1]]
    if not starts:
        raise PromptError(
            f"{model.info.name} has no years of two tokens, such as ' 17' and '32', which greater_than needs"
        )
    return torch.tensor(digits)[:, 0], starts
