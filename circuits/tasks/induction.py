"""Induction on random tokens, for any model: `… A B … A` asks for B (Olsson et al. 2022, arXiv:2209.11895)."""

import torch

from workbench.heads import repeated_tokens
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

LENGTHS = (8, 16, 24)
"""Tokens in the first copy; the second ends halfway."""


def induction(model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    """Random tokens, all different, and the first half of them again. Corrupted: another token stood at B.

    Raises `SettingError` if they do not fit the model's context or vocabulary.
    """
    each = -(-n // len(LENGTHS))
    groups = []
    for number, length in enumerate(LENGTHS):
        tokens = repeated_tokens(model, length + 1, each, seed * len(LENGTHS) + number)
        begin, again = tokens.shape[1] - 2 * (length + 1), length // 2
        b = begin + again
        spare, answers = tokens[:, begin + length], tokens[:, b]
        clean = torch.cat([tokens[:, : begin + length], tokens[:, begin:b]], dim=1)
        corrupted = clean.clone()
        corrupted[:, b] = spare
        positions = {"A1": b - 1, "B": b, "A2": clean.shape[1] - 1, "end": clean.shape[1] - 1}
        pattern = f"{length} random tokens, and the first {again} of them again"
        groups.append(PromptPairs("induction", clean, corrupted, answers, spare, pattern, positions))
    return groups
