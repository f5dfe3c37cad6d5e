"""Continuing a prompt, one token at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import SettingError


@dataclass(frozen=True, eq=False)
class Generation:
    """A prompt and what the model went on to write. Prints as its text."""

    tokens: Int[Tensor, " pos"]
    """The prompt and its continuation."""
    text: str | None
    """The text of `tokens`; None for a model without a tokenizer."""
    n_prompt: int
    """The number of tokens of the prompt."""
    ended: Literal["length", "eos", "context"]
    """Why it ended: as many tokens as asked for, an end-of-sequence token, or no room left in the context."""

    @property
    def prompt_tokens(self) -> Int[Tensor, " n_prompt"]:
        return self.tokens[: self.n_prompt]

    @property
    def new_tokens(self) -> Int[Tensor, " n_new"]:
        return self.tokens[self.n_prompt :]

    def __str__(self) -> str:
        return self.text if self.text is not None else " ".join(map(str, self.tokens.tolist()))


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Raises `SettingError` for a value that makes no sense."""

    temperature: float | int = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | int | None = None
    """Draw from the fewest likeliest tokens whose probabilities reach p (nucleus sampling: arXiv:1904.09751)."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise SettingError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise SettingError(f"top_k is {self.top_k}; it must be 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SettingError(f"top_p is {self.top_p}; it must be above 0 and at most 1")

    def draw(self, logits: Float[Tensor, " d_vocab"], generator: torch.Generator) -> int:
        """The next token, drawn on the CPU so that a seed gives the same text on every device."""
        logits = logits.detach().float().cpu()
        if self.temperature == 0:
            return int(logits.argmax())
        probabilities, order = (logits / self.temperature).softmax(-1).sort(descending=True, stable=True)
        if self.top_k is not None:
            probabilities[self.top_k :] = 0
        if self.top_p is not None:
            before = probabilities.cumsum(-1) - probabilities
            probabilities[before >= self.top_p * probabilities.sum()] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def extend(
    step: Callable[[Int[Tensor, "batch pos"], int], Float[Tensor, "batch d_vocab"]],
    prompts: Int[Tensor, "batch pos"],
    *,
    limit: int,
    sampling: Sampling,
    seeds: Sequence[int],
    eos: frozenset[int],
) -> list[Int[Tensor, " pos_"]]:
    """Each prompt and what follows it, up to `limit` tokens in all or an end-of-sequence token.

    `step(tokens, start)` is given the tokens from position `start` on, having been given all those before already, and
    returns the logits at the last. Each row draws with a generator of its own, so that its text does not depend on the
    rows beside it.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    tokens, start = prompts, 0
    ends = [limit] * len(prompts)
    while tokens.shape[1] < limit and limit in ends:
        logits = step(tokens[:, start:], start)
        start = tokens.shape[1]
        new = [sampling.draw(row, generator) for row, generator in zip(logits, generators, strict=True)]
        tokens = torch.cat([tokens, tokens.new_tensor(new)[:, None]], dim=1)
        ends = [min(end, start + 1) if token in eos else end for end, token in zip(ends, new, strict=True)]
    return [row[:end] for row, end in zip(tokens, ends, strict=True)]
