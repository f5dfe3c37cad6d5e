"""Sentence patterns with named slots, spelled in the tokens of a model."""

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.tasks.words import single_tokens
from workbench.errors import PromptError
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

_SLOT = re.compile(r"\{(\w+)\}")

Row = Mapping[str, str]
"""A word for each slot of a pattern."""


def pairs_from(
    model: HookedModel,
    name: str,
    pattern: str,
    clean: Sequence[Row],
    corrupted: Sequence[Row],
    answers: Sequence[str] | Int[Tensor, " row"],
    distractors: Sequence[str] | Int[Tensor, " row"],
) -> PromptPairs:
    """Pairs of one pattern, filled in two ways. Answers are tokens, or words that follow a space.

    A slot gives its name to the position of its last token, unless the name begins with `_`; the last position is
    `end`. Raises `PromptError` if the tokens do not line up or a word is not known.
    """
    prompts = [_spell(model, name, pattern, rows) for rows in (clean, corrupted)]
    ids = [_tokens(model, name, words) for words in (answers, distractors)]
    return PromptPairs(name, *prompts, *ids, pattern, _positions(model, name, pattern, clean[0], prompts[0][0]))


def _tokens(model: HookedModel, name: str, words: Sequence[str] | Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    if isinstance(words, Tensor):
        return words
    known = single_tokens(model, words)
    if foreign := [word for word in words if word not in known]:
        raise PromptError(f"{name}: {model.info.name} has no single token for {foreign[0]!r}")
    return torch.tensor([known[word] for word in words])


def _spell(model: HookedModel, name: str, pattern: str, rows: Sequence[Row]) -> Int[Tensor, "row pos"]:
    tokens = model.to_tokens([pattern.format(**row) for row in rows]).cpu()
    if (tokens[:, 1:] == model.tokenizer.unk_token_id).any():
        raise PromptError(f"{name} is asked in sentences that {model.info.name} has no tokens for: {pattern!r}")
    return tokens


def _positions(model: HookedModel, name: str, pattern: str, row: Row, tokens: Int[Tensor, " pos"]) -> dict[str, int]:
    """Where each slot ends, found by spelling the sentence up to there."""
    positions = {}
    for slot in _SLOT.finditer(pattern):
        if slot[1].startswith("_"):
            continue
        start = model.to_tokens(pattern[: slot.end()].format(**row))[0].cpu()
        if not torch.equal(start, tokens[: len(start)]):
            raise PromptError(f"{name}: {model.info.name} has no token that ends where {slot[0]} does in {pattern!r}")
        positions[slot[1]] = len(start) - 1
    return positions | {"end": len(tokens) - 1}
