"""Which heads copy what they look at, and which suppress it: scores from the weights alone, for all heads at once.

Read from each token's stream as `token_streams` gives it, with the layer's own norm, biases and W_OV applied in full.

*Copying score* (Wang et al. 2022, "Interpretability in the Wild", section 3.1 and appendix): the share of tokens that
are among the `top` most probable when the head's output for that token goes straight to the final norm and the
unembedding, less the same share for minus the head's output, their *negative* copying score. Between -1 and 1.

*Eigenvalue score* (Elhage et al. 2021): Σ λ / Σ |λ| over the eigenvalues λ of W_E W_OV W_U, where W_E are the
normalised streams without the norm's bias and W_U has the final norm's gain. Between -1 and 1; 1 if all are positive.

*Copy suppression score* (after McDougall et al. 2023, "Copy Suppression", arXiv:2310.04625, section 3): the share of
tokens t for which both halves of the mechanism are there. OV: t is among the `top` tokens whose logits the head lowers
most when it looks at t. QK: t is among the `top` keys that score highest, `offset` positions back, for a query whose
stream is the unembedding of t, as after a layer that predicts t. Between 0 and 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import SettingError
from workbench.head_reads import HeadReads, token_streams
from workbench.heads import ordinary_tokens
from workbench.model import HookedModel
from workbench.weights import final_norm, norm_of

TOKENS = 500
"""Tokens that shares are of: all ordinary ones, or a sample of so many."""


@dataclass(frozen=True)
class CopyingScores:
    """The three scores of every head; see the module."""

    copying: Float[Tensor, "layer head"]
    eigenvalue: Float[Tensor, "layer head"]
    suppression: Float[Tensor, "layer head"]
    n_tokens: int
    top: int
    offset: int

    def __str__(self) -> str:
        lines = [
            f"From the weights, over {self.n_tokens} tokens, top {self.top}: copying, eigenvalue, copy suppression"
        ]
        for layer, rows in enumerate(zip(self.copying, self.eigenvalue, self.suppression, strict=True)):
            heads = zip(*(row.tolist() for row in rows), strict=True)
            cells = (f"H{head} {c:+.2f} {e:+.2f} {s:.2f}" for head, (c, e, s) in enumerate(heads))
            lines.append(f"  L{layer}  " + "   ".join(cells))
        return "\n".join(lines)


@torch.no_grad()
def copying_scores(
    model: HookedModel,
    *,
    tokens: Int[Tensor, " token"] | None = None,
    top: int = 5,
    offset: int = 1,
    seed: int = 0,
) -> CopyingScores:
    """Copying, eigenvalue and copy suppression scores of every head.

    `tokens`: those that shares are of, such as names; by default all ordinary ones, `TOKENS` at most.
    `offset` matters under rotary positions only; `seed` draws the tokens where there are more than `TOKENS`.
    Raises `SettingError`, and `ModelError` for an architecture whose heads cannot be read apart from a prompt.
    """
    if not 1 <= top <= model.info.d_vocab:
        raise SettingError(f"top is {top}; it must be between 1 and the vocabulary's {model.info.d_vocab} tokens")
    tokens = ordinary_tokens(model) if tokens is None else tokens
    tokens = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:TOKENS]]
    layers: list[tuple[Float[Tensor, " head"], ...]] = []
    for layer in range(model.info.n_layers):
        if layer < 2:  # later layers are brought what layer 1 is
            streams = token_streams(model, layer)
        layers.append(_layer(model, layer, streams, tokens.to(model.device), top, offset))
    columns = (torch.stack(column).cpu() for column in zip(*layers, strict=True))
    return CopyingScores(*columns, n_tokens=len(tokens), top=top, offset=offset)


def _layer(
    model: HookedModel,
    layer: int,
    streams: Float[Tensor, "d_vocab d_model"],
    tokens: Int[Tensor, " token"],
    top: int,
    offset: int,
) -> tuple[Float[Tensor, " head"], ...]:
    reads, final = HeadReads(model, layer, furthest=offset), final_norm(model)
    values, keys = reads.values(streams), reads.keys(streams)
    queries = reads.queries(model.W_U.T[tokens], offset)
    weights, W_U, constant = reads.weights, model.W_U, final.bias @ model.W_U
    of_biases = torch.einsum("d,hde->he", norm_of(model, layer, "ln1").bias, weights.W_V) + weights.b_V
    own = torch.arange(len(tokens), device=tokens.device), tokens
    rows = []
    for head in range(model.info.n_heads):
        W_O = final.centre(reads.W_O[head])
        out = W_O * final.gain @ W_U  # [d_value, d_vocab]: logits but for the norm's division
        size = ((values[tokens, head] @ W_O).square().mean(1, keepdim=True) + final.eps).sqrt()
        logits = values[tokens, head] @ out / size
        copied, undone = _is_top(logits + constant, own, top), _is_top(logits - constant, own, top, largest=False)
        suppressed = _is_top(logits, own, top, largest=False)
        suppressed &= _is_top(queries[:, head] @ keys[:, head].T, own, top)
        shares = torch.stack([copied, undone, suppressed]).float().mean(1)
        # the nonzero eigenvalues of [d_vocab, d_value] [d_value, d_vocab] are those of the small product
        eigenvalues = torch.linalg.eigvals((out @ (values[:, head] - of_biases[head])).double())
        score = (eigenvalues.real.sum() / eigenvalues.abs().sum()).float()
        rows.append(torch.stack([shares[0] - shares[1], score, shares[2]]))
    return tuple(torch.stack(rows, dim=1))


def _is_top(
    scores: Float[Tensor, "token d_vocab"], own: tuple[Tensor, Tensor], top: int, largest: bool = True
) -> Bool[Tensor, " token"]:
    """Whether each row's own score is among the `top` largest (or smallest), and no tie for the last place."""
    if top >= scores.shape[1]:
        return torch.ones_like(own[0], dtype=torch.bool)
    next_one = scores.topk(top + 1, largest=largest).values[:, -1]
    return scores[own] > next_one if largest else scores[own] < next_one
