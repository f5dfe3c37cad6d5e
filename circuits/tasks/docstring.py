"""Docstring (Heimersheim & Janiak 2023): a Python docstring names the arguments in order; which one comes third?

Corrupted, the third and the fourth argument of the definition change places, and so do answer and distractor.
"""

import numpy as np

from circuits.tasks.sentences import pairs_from
from circuits.tasks.words import CODE_WORDS, need
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

PATTERN = '''def {_function}(self, {A_def}, {B_def}, {C_def}, {D_def}):
    """Find the {_1} of the {_2}.

    :param {A_doc}: the {_3} {_4}
    :param {B_doc}: the {_5} {_6}
    :param'''


def docstring(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """All words of a prompt differ, but for the two arguments that the docstring has named."""
    words = need(model, CODE_WORDS, "words for arguments", 11)
    rng = np.random.default_rng(seed)
    clean, corrupted = [], []
    for _ in range(n):
        a, b, c, d, function, *others = (words[i] for i in rng.choice(len(words), 11, replace=False))
        arguments = {"A_def": a, "B_def": b, "C_def": c, "D_def": d, "A_doc": a, "B_doc": b}
        clean.append(arguments | {"_function": function} | {f"_{i}": word for i, word in enumerate(others, start=1)})
        corrupted.append(clean[-1] | {"C_def": d, "D_def": c})
    answers, distractors = ([row[slot] for row in clean] for slot in ("C_def", "D_def"))
    return [pairs_from(model, "docstring", PATTERN, clean, corrupted, answers, distractors)]
