"""The QK and OV circuits of one head on the whole vocabulary, and the spectrum of OV.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": W_E W_QK W_E^T says which tokens a head wants
to look at, W_E W_OV W_U which logits it moves when it looks at a token. Here both are exact for a token's stream as
`token_streams` gives it: the block's norm, biases, query and key norms, and rotary positions are applied in full.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import ModelError, SettingError
from workbench.head_reads import HeadReads, token_streams
from workbench.model import HookedModel
from workbench.weights import head_weights, linear_heads, unembedding

ENTRIES = 2**23
"""Scores or logit effects that are held at a time."""

Rows = Callable[[slice], Float[Tensor, "block d_vocab"]]


@dataclass(frozen=True)
class TokenPairs:
    """The strongest entries of a [d_vocab, d_vocab] matrix, from the strongest down."""

    rows: Int[Tensor, " pair"]
    columns: Int[Tensor, " pair"]
    values: Float[Tensor, " pair"]
    row_strings: list[str]
    column_strings: list[str]

    def lines(self) -> list[str]:
        triples = zip(self.values.tolist(), self.row_strings, self.column_strings, strict=True)
        return [f"  {value:+8.2f}  {row!r} → {column!r}" for value, row, column in triples]


@dataclass(frozen=True)
class HeadCircuit:
    """A head's circuit on the whole vocabulary. Rows and columns are tokens.

    "qk": entry (s, t) is the score, before the softmax, with which a query at s looks at a key t that is `offset`
    positions before it. "ov": entry (s, t) is what looking at s adds to the logit of t, but for the final norm's
    division, less the mean over all t, which no probability depends on.
    """

    kind: Literal["qk", "ov"]
    layer: int
    head: int
    offset: int | None
    """How far the key is behind the query; None for "ov"."""
    top: TokenPairs
    bottom: TokenPairs
    diagonal: float
    """Share of tokens whose own entry is the largest of their row: look at themselves, or copy themselves."""

    def __str__(self) -> str:
        name = f"L{self.layer}H{self.head}"
        if self.kind == "qk":
            title = f"QK circuit of {name}: score of query → key, {self.offset} positions back"
        else:
            title = f"OV circuit of {name}: effect on the logits, token looked at → token predicted"
        diagonal = f"own token is the largest of its row for {self.diagonal:.1%} of tokens"
        return "\n".join([title, *self.top.lines(), "  lowest:", *self.bottom.lines(), f"  {diagonal}"])


def qk_circuit(model: HookedModel, layer: int, head: int, *, offset: int = 1, k: int = 10) -> HeadCircuit:
    """The `k` pairs of tokens with the highest and lowest scores, at `offset` positions between them.

    Without rotary positions the offset does not matter. Memory is bounded: the matrix is made in blocks of rows.
    Raises `ModelError` for a head or offset that the model lacks, or scores that are not of queries and keys alone.
    """
    _check(model, layer, head, k)
    reads, streams = HeadReads(model, layer, furthest=offset), token_streams(model, layer)
    q, keys = reads.queries(streams, offset)[:, head], reads.keys(streams)[:, head]
    return _circuit(model, "qk", layer, head, offset, lambda rows: q[rows] @ keys.T, k)


def ov_circuit(model: HookedModel, layer: int, head: int, *, k: int = 10) -> HeadCircuit:
    """The `k` pairs (token looked at, token predicted) with the highest and lowest effects. Raises as `qk_circuit`."""
    _check(model, layer, head, k)
    reads, streams = HeadReads(model, layer), token_streams(model, layer)
    values, out = reads.values(streams)[:, head], reads.W_O[head] @ _levelled(unembedding(model))
    return _circuit(model, "ov", layer, head, None, lambda rows: values[rows] @ out, k)


def _levelled(W_U: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, "d_model d_vocab"]:
    """Logits less their mean over the vocabulary."""
    return W_U - W_U.mean(1, keepdim=True)


def _check(model: HookedModel, layer: int, head: int, k: int) -> None:
    if not 0 <= head < model.info.n_heads:
        raise ModelError(f"{model.info.name} has no head {head}; its heads are 0 to {model.info.n_heads - 1}")
    if not 1 <= k <= model.info.d_vocab:
        raise SettingError(f"k is {k}; it must be between 1 and the vocabulary's {model.info.d_vocab} tokens")


@torch.no_grad()
def _circuit(
    model: HookedModel, kind: Literal["qk", "ov"], layer: int, head: int, offset: int | None, rows: Rows, k: int
) -> HeadCircuit:
    n = model.info.d_vocab
    highest, lowest, diagonal = _Best(k), _Best(k), 0
    for start, block in _blocks(rows, n):
        highest.offer(start, block)
        lowest.offer(start, -block)
        diagonal += int((block.argmax(1).cpu() == torch.arange(start, start + len(block))).sum())
    top, bottom = (_pairs(model, best, sign) for best, sign in ((highest, 1), (lowest, -1)))
    return HeadCircuit(kind, layer, head, offset, top, bottom, diagonal / n)


def _blocks(rows: Rows, n: int) -> Iterator[tuple[int, Float[Tensor, "block d_vocab"]]]:
    step = max(1, ENTRIES // n)
    for start in range(0, n, step):
        yield start, rows(slice(start, start + step)).float()


class _Best:
    """The `k` largest entries of a matrix that comes in blocks of rows."""

    def __init__(self, k: int):
        self.k = k
        self.values, self.at = torch.empty(0), torch.empty(0, dtype=torch.long)

    def offer(self, start: int, block: Float[Tensor, "row column"]) -> None:
        least = self.values[-1] if len(self.values) == self.k else -torch.inf
        rows = (block.amax(1) > least).nonzero()[:, 0]  # most blocks have few such rows
        if not len(rows):
            return
        best = block[rows].flatten().topk(min(self.k, len(rows) * block.shape[1]))
        row, column = rows[best.indices // block.shape[1]].cpu(), (best.indices % block.shape[1]).cpu()
        values = torch.cat([self.values, best.values.cpu()])
        order = values.argsort(descending=True, stable=True)[: self.k]
        self.values = values[order]
        self.at = torch.cat([self.at, (start + row) * block.shape[1] + column])[order]


def _pairs(model: HookedModel, best: _Best, sign: int) -> TokenPairs:
    rows, columns = best.at // model.info.d_vocab, best.at % model.info.d_vocab
    return TokenPairs(rows, columns, sign * best.values, model.token_strings(rows), model.token_strings(columns))


@dataclass(frozen=True)
class OVSpectrum:
    """The singular value decomposition of W_V W_O, norms' gains folded in, largest value first.

    Direction i takes what the head reads along `read[i]` and writes it, times `values[i]`, along `written[i]`. Signs of
    a pair are free: they are such that the sum of the top tokens' readings is positive.
    """

    layer: int
    head: int
    values: Float[Tensor, " d_value"]
    read_strings: list[list[str]]
    """[direction][k] the tokens whose streams lie furthest along the direction that is read."""
    written_strings: list[list[str]]
    """[direction][k] the tokens whose logits the direction that is written raises most."""

    @property
    def participation(self) -> float:
        """How many directions carry the spectrum: (Σ σ²)² / Σ σ⁴, between 1 and d_value."""
        squares = self.values.double().square()
        return float(squares.sum().square() / squares.square().sum())

    def __str__(self) -> str:
        head = (
            f"OV spectrum of L{self.layer}H{self.head}: about {self.participation:.1f} of {len(self.values)} directions"
        )
        rows = zip(self.values.tolist(), self.read_strings, self.written_strings, strict=False)
        lines = [
            f"  {value:7.3f}  {' '.join(map(repr, read))}  →  {' '.join(map(repr, out))}" for value, read, out in rows
        ]
        return "\n".join([head, *lines])


@torch.no_grad()
def ov_spectrum(model: HookedModel, layer: int, head: int, *, directions: int = 5, k: int = 5) -> OVSpectrum:
    """Singular values of a head's OV, and for the first `directions` the tokens read and written most.

    Never forms the [d_model, d_model] product: W_V = Q1 R1 and W_O^T = Q2 R2, and the decomposition of R1 R2^T is small
    (Millidge and Black 2022, "The singular value decompositions of transformer weight matrices are highly
    interpretable", reads the directions so). Raises as `qk_circuit`.
    """
    _check(model, layer, head, k)
    if not 0 <= directions <= head_weights(model, layer).W_V.shape[-1]:
        raise SettingError(f"directions is {directions}; it must be between 0 and the head's width")
    weights = linear_heads(model, layer)
    (q1, r1), (q2, r2) = (torch.linalg.qr(W.float()) for W in (weights.W_V[head], weights.W_O[head].T))
    u, values, vh = torch.linalg.svd(r1 @ r2.T)
    read, written = (q1 @ u)[:, :directions], (q2 @ vh.T)[:, :directions]
    streams = token_streams(model, layer).float()
    along = (streams / streams.square().mean(1, keepdim=True).sqrt()) @ read
    sign = along.topk(k, dim=0).values.sum(0) + along.topk(k, dim=0, largest=False).values.sum(0)
    sign = torch.where(sign < 0, -1.0, 1.0)
    promoted = (written * sign).T @ _levelled(unembedding(model)).float()
    strings = partial(_strings, model)
    return OVSpectrum(
        layer=layer,
        head=head,
        values=values.cpu(),
        read_strings=strings((along * sign).T.topk(k).indices),
        written_strings=strings(promoted.topk(k).indices),
    )


def _strings(model: HookedModel, tokens: Int[Tensor, "row k"]) -> list[list[str]]:
    return [model.token_strings(row) for row in tokens]
