"""Which pre-activations to keep: the encoder's dense product, made a few rows at a time so that it stays in cache.

A selection is a choice and has no gradient. `encode` makes it, and gives the kept pre-activations theirs. Where a
machine is quick at it, 8-bit bounds say where to look, and the product is made in full only for what they point to.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.screening import Bounds, worthwhile
from saes.sparse import Code, Dense, Pattern, sample, sampled_product
from saes.team import ALONE, Team

CHUNK_ENTRIES = {"cpu": 2**22, "other": 2**27}
"""How many pre-activations are held at a time: on a CPU few enough that they stay in its cache."""

DENSE_ABOVE = 1 / 20
"""The fraction of active latents from which on dense products are faster."""

BLOCK = 8
"""How many latents are compared through the largest of them."""

UNSURE = 1 / 8
"""The fraction of rows that bounds may leave undecided; where it is more, they are not worth their cost."""


class Kept(NamedTuple):
    """What some rows of pre-activations leave behind."""

    values: Float[Tensor, " entries"]
    indices: Int[Tensor, " entries"]
    counts: Int[Tensor, " rows"]

    def pattern(self, d_sae: int) -> Pattern:
        return Pattern(self.indices, F.pad(self.counts.cumsum(0), (1, 0)), d_sae)


Found = tuple[Float[Tensor, " entries"], Pattern]
"""Values and pattern of selected pre-activations."""

Among = Callable[[Found], Found]
"""Picks some of the selected."""


@runtime_checkable
class Select(Protocol):
    """Picks entries of pre-activations."""

    norms: Float[Tensor, " d_sae"] | None
    """What pre-activations are multiplied with before they are compared."""

    def __call__(self, pre: Float[Tensor, "rows d_sae"]) -> Kept | None:
        """The selected; None if they are too many for sparse products to pay."""
        ...

    def candidates(self, bounds: Float[Tensor, "rows d_sae"]) -> Kept | None:
        """Which may be selected, and their bounds, given upper bounds on pre-activations times norms."""
        ...

    def settle(self, candidates: Kept, values: Float[Tensor, " entries"]) -> tuple[Kept, Bool[Tensor, " rows"]]:
        """The selected among candidates, their values being known; and in which rows others may belong to them."""
        ...


@dataclass(frozen=True, eq=False)
class Largest:
    """The k largest of each row; with `norms`, the k for which pre-activation times norm is largest."""

    k: int
    norms: Float[Tensor, " d_sae"] | None = None

    def __call__(self, pre: Float[Tensor, "rows d_sae"]) -> Kept:
        if self.norms is None:
            values, indices = _top_k(pre, self.k)
        else:
            indices = _top_k(pre * self.norms, self.k)[1]
            values = pre.gather(1, indices)
        return _rectangle(values, indices)

    def candidates(self, bounds: Float[Tensor, "rows d_sae"]) -> Kept:
        return _rectangle(*_top_k(bounds, min(2 * self.k, bounds.shape[1])))

    def settle(self, candidates: Kept, values: Float[Tensor, " entries"]) -> tuple[Kept, Bool[Tensor, " rows"]]:
        scores = values if self.norms is None else values * self.norms[candidates.indices]
        bounds, indices, values, scores = (
            flat.view(len(candidates.counts), -1) for flat in (candidates.values, candidates.indices, values, scores)
        )
        best, chosen = scores.topk(self.k, sorted=False)
        return _rectangle(values.gather(1, chosen), indices.gather(1, chosen)), best.amin(1) < bounds.amin(1)


@dataclass(frozen=True, eq=False)
class Above:
    """Those above a threshold; None where they are more than a fraction `at_most` (`DENSE_ABOVE`) of all."""

    threshold: Float[Tensor, " d_sae"] | float
    at_most: float | None = None
    norms: None = None

    def __call__(self, pre: Float[Tensor, "rows d_sae"]) -> Kept | None:
        flat = (pre > self.threshold).view(-1).nonzero()[:, 0]
        if len(flat) > (DENSE_ABOVE if self.at_most is None else self.at_most) * pre.numel():
            return None
        rows = flat // pre.shape[1]
        return Kept(pre.view(-1)[flat], flat - rows * pre.shape[1], rows.bincount(minlength=len(pre)))

    def candidates(self, bounds: Float[Tensor, "rows d_sae"]) -> Kept | None:
        return self(bounds)

    def settle(self, candidates: Kept, values: Float[Tensor, " entries"]) -> tuple[Kept, Bool[Tensor, " rows"]]:
        indices, counts = candidates.indices, candidates.counts
        above = values > (self.threshold[indices] if isinstance(self.threshold, Tensor) else self.threshold)
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        kept = Kept(values[above], indices[above], rows[above].bincount(minlength=len(counts)))
        return kept, torch.zeros_like(counts, dtype=torch.bool)


def _rectangle(values: Float[Tensor, "rows k"], indices: Int[Tensor, "rows k"]) -> Kept:
    rows, k = indices.shape
    return Kept(values.flatten(), indices.flatten(), indices.new_full((rows,), k))


def _top_k(scores: Float[Tensor, "rows d_sae"], k: int) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """`scores.topk(k, sorted=False)`, in half the time on a CPU.

    The k largest lie in the k blocks of latents of which the largest members are largest.
    """
    rows, d_sae = scores.shape
    n_blocks = d_sae // BLOCK
    if scores.device.type != "cpu" or d_sae % BLOCK or 2 * k >= n_blocks:
        return scores.topk(k, sorted=False)
    _, blocks = _top_k(scores.view(rows, BLOCK, n_blocks).amax(1), k)
    members = (blocks[:, None] + torch.arange(0, d_sae, n_blocks)[:, None]).flatten(1)
    values, chosen = scores.gather(1, members).topk(k, sorted=False)
    return values, members.gather(1, chosen)


def encode(
    x: Float[Tensor, "rows d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    select: Select,
    screened: bool = False,
    among: Among | None = None,
) -> Code | Dense:
    """The selected entries of (x - centre) @ W_enc + b_enc: differentiable once in all four. `Dense`, all of them.

    `screened`: look only where 8-bit bounds say that they may be, if that is quicker. `among` chooses once more, among
    what was selected in all rows.
    """
    kept = scan(x, centre, W_enc, b_enc, select, screened)
    if kept is None:
        return Dense(torch.addmm(_bias(centre, W_enc, b_enc), x, W_enc))
    found = kept.values, kept.pattern(len(b_enc))
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
    screened: bool = False,
) -> Kept | None:
    """The selected pre-activations; None if `select` gives up."""
    chunk = max(1, CHUNK_ENTRIES["cpu" if x.device.type == "cpu" else "other"] // max(1, len(b_enc)))
    if screened and worthwhile(x, W_enc):
        found = _screen(x if centre is None else x - centre, W_enc, b_enc, select, chunk)
        if found is not None:
            return found
    bias = _bias(centre, W_enc, b_enc)
    buffer = x.new_empty(min(len(x), chunk), len(b_enc))
    return _collect(select(torch.addmm(bias, rows, W_enc, out=buffer[: len(rows)])) for rows in x.split(chunk))


def _screen(
    x: Float[Tensor, "rows d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    select: Select,
    chunk: int,
) -> Kept | None:
    """The selected entries of x @ W_enc + b_enc by way of bounds; None if these are too wide, or `select` gives up.

    Whether they are shows in the first chunk. Rows that they leave undecided are made in full.
    """
    bounds, parts = Bounds(W_enc, b_enc, select.norms, x.square().mean(0).sqrt()), []
    for rows in filter(len, (x[:chunk], x[chunk:])):
        candidates = _collect(select.candidates(bounds(few)) for few in rows.split(chunk))
        if candidates is None:
            return None
        values = sampled_product(rows, W_enc.T, candidates.pattern(len(b_enc))) + b_enc[candidates.indices]
        kept, unsure = select.settle(candidates, values)
        if unsure.sum() > UNSURE * len(rows):
            return None
        if unsure.any():
            full = scan(rows[unsure], None, W_enc, b_enc, select)
            for tensor, exact in zip(kept[:2], full[:2], strict=True):
                tensor.view(len(rows), -1)[unsure] = exact.view(len(full.counts), -1)
        parts.append(kept)
    return _collect(parts)


def _collect(parts: Iterable[Kept | None]) -> Kept | None:
    """Consecutive rows put together; None as soon as a part is."""
    kept = []
    for part in parts:
        if part is None:
            return None
        kept.append(part)
    return Kept(*(torch.cat(column) for column in zip(*kept, strict=True)))


def batch_top_k(
    x: Float[Tensor, "rows d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    k: float,
    norms: Float[Tensor, " d_sae"],
    team: Team = ALONE,
    screened: bool = False,
) -> tuple[Code, Float[Tensor, ""]]:
    """The k·rows entries of the whole batch whose pre-activation times norm is largest, and positive; and the least.

    A team chooses among the rows and latents of all its processes, and each gets the chosen ones that are its own.

    Candidates are all entries above a floor, which the first rows suggest such that about 2k a row pass it. If k·rows
    do pass, no other entry can be among the largest, and the choice is exact; if not, the floor is lowered and the
    batch read again.
    """
    wanted = int(k * len(x) * team.row_parts)
    floor = team.total(_floor(x[:64], centre, W_enc, b_enc, 2 * k / team.latent_parts, norms)) / team.size
    while True:
        kept = scan(x, centre, W_enc, b_enc, Above(floor / norms, at_most=1.0), screened)
        if team.total(len(kept.values)) >= wanted or floor == 0.0:
            break
        floor = floor / 2 if floor > 1e-6 else 0.0
    pattern = kept.pattern(len(b_enc))
    chosen, least = team.largest(kept.values * norms[pattern.indices], wanted)
    chosen = chosen.sort().values
    return sample(x, centre, W_enc, b_enc, kept.values[chosen], pattern.only(chosen)), least


@torch.no_grad()
def _floor(
    x: Float[Tensor, "rows d_in"],
    centre: Float[Tensor, " d_in"] | None,
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    per_row: float,
    norms: Float[Tensor, " d_sae"],
) -> float:
    """A score that about `per_row` latents exceed; never below 0."""
    scores = torch.addmm(_bias(centre, W_enc, b_enc), x, W_enc) * norms
    rank = min(scores.numel(), max(1, int(per_row * len(scores))))
    return max(0.0, scores.flatten().topk(rank, sorted=False).values.min().item())
