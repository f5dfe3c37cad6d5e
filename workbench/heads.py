"""Head scores: which heads look at the previous token, at an earlier copy of the token, or at what followed that copy.

Measured on random tokens repeated once, `[BOS] A A`, as the mean attention on a diagonal stripe (Wang et al. 2022,
"Interpretability in the Wild", appendices H and I; Olsson et al. 2022, "In-context Learning and Induction Heads"). Each
stripe covers only the queries from which its target exists, so a perfect head scores exactly 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention import PATTERN
from workbench.errors import SettingError
from workbench.model import HookedModel
from workbench.tokens import starts_with_bos

KINDS = ("previous_token", "duplicate_token", "induction")


@dataclass(frozen=True)
class HeadScores:
    """Mean attention on each stripe, between 0 and 1, and the loss (nats a token) on the two copies."""

    previous_token: Float[Tensor, "layer head"]
    duplicate_token: Float[Tensor, "layer head"]
    induction: Float[Tensor, "layer head"]
    first_loss: float
    """Loss on tokens 2..n of the first copy, which nothing predicts."""
    second_loss: float
    """Loss on the same tokens of the second copy, which a model with induction predicts."""
    length: int
    batch: int
    seed: int

    @property
    def loss_drop(self) -> float:
        """The share of the first copy's loss that is gone in the second."""
        return 1.0 - self.second_loss / self.first_loss

    def ranked(self, kind: str) -> list[tuple[int, int, float]]:
        """(layer, head, score) of all heads, best first; `kind` is one of `KINDS`."""
        scores: Tensor = getattr(self, kind)
        n_heads = scores.shape[1]
        order = scores.flatten().argsort(descending=True, stable=True).tolist()
        return [(i // n_heads, i % n_heads, scores.flatten()[i].item()) for i in order]

    def __str__(self) -> str:
        columns = [self.ranked(kind)[:5] for kind in KINDS]
        lines = [
            f"Attention on the stripe, {self.batch} sequences of {self.length} random tokens, repeated (perfect: 1)",
            "  rank  " + "".join(f"{kind.replace('_', ' '):<18}" for kind in KINDS),
        ]
        for rank, row in enumerate(zip(*columns, strict=True), start=1):
            lines.append(f"  {rank:>4}  " + "".join(f"{f'L{layer}H{head}  {s:.3f}':<18}" for layer, head, s in row))
        first, second = f"{self.first_loss:.3f}", f"{self.second_loss:.3f}"
        drop = round(self.loss_drop, 2) + 0.0  # no minus before a zero
        lines.append(f"Loss {first} nats on the first copy, {second} on the second: {drop:.0%} lower")
        return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class Stripes:
    """The three scores of each head, before the losses are known."""

    previous_token: Float[Tensor, "layer head"]
    duplicate_token: Float[Tensor, "layer head"]
    induction: Float[Tensor, "layer head"]


def stripe_scores(patterns: Float[Tensor, "layer batch head query key"], length: int) -> Stripes:
    """Scores from attention on sequences that end in two copies of `length` tokens, after a BOS or nothing.

    With `s` the position where the second copy begins, the mean over the batch of the attention from query q to
    previous token: q - 1, for every q of both copies but the very first token;
    duplicate token: q - length, for q = s .. s + length - 1; induction: q - length + 1, for the same q.
    """
    second = patterns.shape[-1] - length

    def stripe(offset: int, first_query: int) -> Float[Tensor, "layer head"]:
        diagonal = patterns.diagonal(-offset, dim1=-2, dim2=-1)
        return diagonal[..., first_query - offset :].mean(dim=(1, 3))

    return Stripes(stripe(1, second - length + 1), stripe(length, second), stripe(length - 1, second))


def ordinary_tokens(model: HookedModel) -> Int[Tensor, " token"]:
    """The tokens that a text is made of: no special ones, and no padding of the embedding."""
    special = set(model.tokenizer.all_special_ids) if model.tokenizer else set()
    vocabulary = min(model.info.d_vocab, len(model.tokenizer)) if model.tokenizer else model.info.d_vocab
    return torch.tensor([token for token in range(vocabulary) if token not in special])


def repeated_tokens(model: HookedModel, length: int, batch: int, seed: int) -> Int[Tensor, "batch pos"]:
    """`batch` sequences of `length` distinct random tokens, repeated once, after BOS if the model was trained with one.

    Special tokens are never drawn. Raises `SettingError` if they do not fit the context or the vocabulary.
    """
    ordinary = ordinary_tokens(model)
    prefix = [model.tokenizer.bos_token_id] if model.tokenizer and starts_with_bos(model.tokenizer) else []
    fits = min((model.info.n_ctx - len(prefix)) // 2, len(ordinary))
    if not 2 <= length <= fits:
        raise SettingError(f"length is {length}; for {model.info.name} it must be between 2 and {fits}")
    if batch < 1:
        raise SettingError(f"batch is {batch}; it must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    copies = torch.stack([ordinary[torch.randperm(len(ordinary), generator=generator)[:length]] for _ in range(batch)])
    return torch.cat([torch.tensor(prefix, dtype=torch.long).expand(batch, -1), copies, copies], dim=1)


def head_scores(model: HookedModel, *, length: int | None = None, batch: int = 8, seed: int = 0) -> HeadScores:
    """Previous-token, duplicate-token and induction scores of every head, on `batch` repeated random sequences.

    `length`: tokens in one copy; by default 50, or as many as fit the context twice. Raises `SettingError`.
    """
    if length is None:
        length = min(50, (model.info.n_ctx - 1) // 2)
    tokens = repeated_tokens(model, length, batch, seed)
    run = model.run(tokens, capture=[PATTERN])
    loss = torch.nn.functional.cross_entropy(
        run.logits[:, :-1].float().transpose(1, 2), tokens[:, 1:].to(run.logits.device), reduction="none"
    )
    stripes = stripe_scores(run.stack(PATTERN).float(), length)
    return HeadScores(
        **{name: score.cpu() for name, score in vars(stripes).items()},
        first_loss=loss[:, -2 * length + 1 : -length].mean().item(),
        second_loss=loss[:, -length + 1 :].mean().item(),
        length=length,
        batch=batch,
        seed=seed,
    )
