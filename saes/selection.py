"""Which pre-activations to keep: the encoder's dense product, made a few rows at a time so that it stays in cache.

A selection is a choice and has no gradient. `encode` makes it, and gives the kept pre-activations theirs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from saes.sparse import Code, Dense, Pattern, sample
from saes.team import ALONE, Team

CHUNK_ENTRIES = {"cpu": 2**22, "other": 2**27}
"""How many pre-activations are held at a time: on a CPU few enough that they stay in its cache."""

DENSE_ABOVE = 1 / 20
"""The fraction of active latents from which on dense products are faster."""


class Kept(NamedTuple):
    """What a chunk of pre-activations leaves behind."""

    values: Float[Tensor, " entries"]
    indices: Int[Tensor, " entries"]
    counts: Int[Tensor, " rows"]


Found = tuple[Float[Tensor, " entries"], Pattern]
"""Values and pattern of selected pre-activations."""

Select = Callable[[Float[Tensor, "rows d_sae"]], Kept | None]
"""Picks entries of a chunk of pre-activations; None if there are too many for sparse products to pay."""


def encode(
    x: Float[Tensor, "rows d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    select: Select,
    among: Callable[[Found], Found] | None = None,
) -> Code | Dense:
    """The selected entries of (x - centre) @ W_enc + b_enc: differentiable once in all four. `Dense`, all of them.

    `among` chooses once more, among what was selected in all rows.
    """
    found = scan(x, centre, W_enc, b_enc, select)
    if found is None:
        return Dense(torch.addmm(_bias(centre, W_enc, b_enc), x, W_enc))
    return sample(x, centre, W_enc, b_enc, *(among(found) if among else found))


def _bias(
    centre: Float[Tensor, " d_in"] | None, W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"]
) -> Float[Tensor, " d_sae"]:
    """What to add to x @ W_enc where the centre is subtracted from x."""
    return b_enc if centre is None else b_enc - centre @ W_enc


@torch.no_grad()
def scan(
    x: Float[Tensor, "rows d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    select: Select,
) -> Found | None:
    """Values and pattern of the selected pre-activations; None if `select` gives up."""
    bias = _bias(centre, W_enc, b_enc)
    d_sae = len(bias)
    n = min(len(x), max(1, CHUNK_ENTRIES["cpu" if x.device.type == "cpu" else "other"] // max(1, d_sae))) or 1
    buffer = x.new_empty(n, d_sae)
    kept = []
    for rows in x.split(n):
        part = select(torch.addmm(bias, rows, W_enc, out=buffer[: len(rows)]))
        if part is None:
            return None
        kept.append(part)
    values, indices, counts = (torch.cat(column) for column in zip(*kept, strict=True))
    return values, Pattern(indices, F.pad(counts.cumsum(0), (1, 0)), d_sae)


def top_k(k: int, norms: Float[Tensor, " d_sae"] | None = None) -> Select:
    """The k largest of each row; with `norms`, the k for which pre-activation times norm is largest."""

    def select(pre: Float[Tensor, "rows d_sae"]) -> Kept:
        scores = pre if norms is None else pre * norms
        largest, indices = scores.topk(k, sorted=False)
        values = largest if norms is None else pre.gather(1, indices)
        return Kept(values.flatten(), indices.flatten(), indices.new_full((len(pre),), k))

    return select


def above(threshold: Float[Tensor, " d_sae"] | float, dense_above: float | None = None) -> Select:
    """Those above a threshold; None where they are more than a fraction `dense_above` (`DENSE_ABOVE`) of a chunk."""
    limit = DENSE_ABOVE if dense_above is None else dense_above

    def select(pre: Float[Tensor, "rows d_sae"]) -> Kept | None:
        flat = (pre > threshold).view(-1).nonzero()[:, 0]
        if len(flat) > limit * pre.numel():
            return None
        return _kept(pre, flat)

    return select


def _kept(pre: Float[Tensor, "rows d_sae"], flat: Int[Tensor, " entries"]) -> Kept:
    """The entries of a chunk at these places, counted row after row."""
    rows = flat // pre.shape[1]
    return Kept(pre.view(-1)[flat], flat - rows * pre.shape[1], rows.bincount(minlength=len(pre)))


def batch_top_k(
    x: Float[Tensor, "rows d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: float,
    norms: Float[Tensor, " d_sae"],
    team: Team = ALONE,
) -> tuple[Code, Float[Tensor, ""]]:
    """The k·rows entries of the whole batch whose pre-activation times norm is largest, and positive; and the least.

    A team chooses among the rows and latents of all its processes, and each gets the chosen ones that are its own.

    Candidates are all entries above a floor, which the first rows suggest such that about 2k a row pass it. If k·rows
    do pass, no other entry can be among the largest, and the choice is exact; if not, the floor is lowered and the
    batch read again.
    """
    wanted, floor = int(k * len(x) * team.row_parts), None

    def select(pre: Float[Tensor, "rows d_sae"]) -> Kept:
        nonlocal floor
        scores = pre * norms
        if floor is None:
            floor = team.total(_typical(scores[:64], 2 * k / team.latent_parts)) / team.size
        flat = (scores > floor).view(-1).nonzero()[:, 0]
        return _kept(pre, flat)

    while True:
        values, pattern = scan(x, centre, W_enc, b_enc, select)
        if team.total(len(values)) >= wanted or floor == 0.0:
            break
        floor = floor / 2 if floor > 1e-6 else 0.0
    scores = values * norms.detach()[pattern.indices]
    chosen, least = team.largest(scores, wanted)
    chosen = chosen.sort().values
    pattern = Pattern(pattern.indices[chosen], torch.searchsorted(chosen, pattern.offsets), pattern.d_sae)
    return sample(x, centre, W_enc, b_enc, values[chosen], pattern), least


def _typical(scores: Float[Tensor, "rows d_sae"], per_row: float) -> float:
    """A value that about `per_row` scores a row exceed; never below 0."""
    rank = min(scores.numel(), max(1, int(per_row * len(scores))))
    return max(0.0, scores.flatten().topk(rank, sorted=False).values.min().item())
