"""Tokenised documents packed whole into contexts of one length."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt64


@dataclass(frozen=True)
class Documents:
    """Tokenised documents laid end to end, each as the model should read it (beginning with BOS, if there is one)."""

    tokens: Int32[np.ndarray, " token"]
    lengths: Int[np.ndarray, " document"]
    """Tokens in each document; they sum to the number of tokens."""
    numbers: Int64[np.ndarray, " document"]
    """The number of each document in its corpus."""
    label_bits: UInt64[np.ndarray, " token"] | None = None
    """Bit i is set where concept i holds."""


class Contexts(NamedTuple):
    """Contexts ready for a model."""

    tokens: Int32[np.ndarray, "context pos"]
    documents: Int64[np.ndarray, "context pos"]
    """The number of the document that a token belongs to; -1 for padding."""
    label_bits: UInt64[np.ndarray, "context pos"] | None

    def rows(self, start: int, stop: int) -> "Contexts":
        """The contexts from `start` up to `stop`."""
        return Contexts(*(None if array is None else array[start:stop] for array in self))


class _Segments(NamedTuple):
    """Pieces of documents that fit a context: `sizes` tokens from `starts` on, after a BOS of their own if `leads`."""

    owners: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    leads: np.ndarray


def pack(documents: Documents, *, context: int, bos: int | None, pad: int, rng: np.random.Generator) -> Contexts:
    """Pack documents into contexts of `context` positions. No token is lost or repeated.

    A document that fits a context is never cut, so every context starts where a document does. A longer one is cut into
    full contexts and a rest; each continuation is preceded by `bos` (if given). Segments are placed by best-fit
    decreasing (Johnson 1974), which leaves little padding; contexts, and the segments within one, are then in random
    order, so that neither tells how long a document is.
    """
    segments = _cut(np.asarray(documents.lengths, np.int64), context, lead=bos is not None)
    widths = segments.sizes + segments.leads
    homes, n_contexts = _best_fit(widths, context)
    homes = rng.permutation(n_contexts)[homes]
    begins = homes * context + _offsets(homes, widths, rng)

    source = _ranges(segments.starts, segments.sizes)
    target = _ranges(begins + segments.leads, segments.sizes)
    leads = begins[segments.leads]

    def scatter(values: np.ndarray, fill: int, at_leads: np.ndarray | int) -> np.ndarray:
        flat = np.full(n_contexts * context, fill, values.dtype)
        flat[target] = values
        flat[leads] = at_leads
        return flat.reshape(n_contexts, context)

    owners = documents.numbers[segments.owners]
    bits = documents.label_bits
    return Contexts(
        tokens=scatter(documents.tokens[source], pad, 0 if bos is None else bos),
        documents=scatter(np.repeat(owners, segments.sizes), -1, owners[segments.leads]),
        label_bits=None if bits is None else scatter(bits[source], 0, 0),
    )


def _cut(lengths: np.ndarray, context: int, lead: bool) -> _Segments:
    """Cut documents at the context length, leaving room for a leading BOS in every piece but the first."""
    step = context - lead
    pieces = (lengths > 0) + np.maximum(0, -(-(lengths - context) // step))
    owners = np.repeat(np.arange(len(lengths)), pieces)
    index = _ranges(np.zeros_like(pieces), pieces)
    within = np.where(index == 0, 0, context + (index - 1) * step)
    sizes = np.minimum(lengths[owners] - within, np.where(index == 0, context, step))
    return _Segments(owners, (np.cumsum(lengths) - lengths)[owners] + within, sizes, (index > 0) & lead)


def _best_fit(widths: np.ndarray, context: int) -> tuple[np.ndarray, int]:
    """The context of each segment, and how many there are: longest first, each where least room is left over."""
    homes = np.empty(len(widths), np.int64)
    by_room: list[list[int]] = [[] for _ in range(context + 1)]
    rooms = 0  # bit r is set while some context has exactly r free positions
    n_contexts = 0
    for segment in np.argsort(-widths, kind="stable").tolist():
        width = int(widths[segment])
        fitting = rooms >> width
        if fitting:
            room = width + (fitting & -fitting).bit_length() - 1
            home = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, home, n_contexts = context, n_contexts, n_contexts + 1
        homes[segment] = home
        if room > width:
            by_room[room - width].append(home)
            rooms |= 1 << (room - width)
    return homes, n_contexts


def _offsets(homes: np.ndarray, widths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where each segment begins within its context, the segments of a context being in random order."""
    order = np.lexsort((rng.random(len(homes)), homes))
    sorted_widths, sorted_homes = widths[order], homes[order]
    before = np.cumsum(sorted_widths) - sorted_widths
    first = np.searchsorted(sorted_homes, sorted_homes)
    offsets = np.empty_like(widths)
    offsets[order] = before - before[first]
    return offsets


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`starts[0], starts[0] + 1, …` (`sizes[0]` of them), then the same for `starts[1]`, and so on."""
    skip = np.cumsum(sizes) - sizes
    return np.repeat(starts - skip, sizes) + np.arange(int(sizes.sum()))
