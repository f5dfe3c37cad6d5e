"""Candidates for examples: one row for each latent and context in which it fires, with its activations there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64, UInt64

from saes.index.firings import Firings
from workbench.hashing import mix


@dataclass(frozen=True)
class Candidates:
    """A table whose rows own a varying number of activations: row i those in `value[offset[i] : offset[i + 1]]`."""

    latent: Int32[np.ndarray, " candidate"]
    context: UInt64[np.ndarray, " candidate"]
    """Hash of the context's tokens."""
    window: UInt64[np.ndarray, " candidate"]
    """Hash of the tokens up to the peak."""
    key: UInt64[np.ndarray, " candidate"]
    """A random number that depends on latent, context and seed only."""
    peak: Float32[np.ndarray, " candidate"]
    peak_position: Int32[np.ndarray, " candidate"]
    """The first position of the largest activation."""
    offset: Int64[np.ndarray, " candidate+1"]
    position: Int32[np.ndarray, " entry"]
    value: Float32[np.ndarray, " entry"]

    @staticmethod
    def of(
        firings: Firings,
        context_hash: UInt64[np.ndarray, " context"],
        window_hash: UInt64[np.ndarray, "context pos"],
        salt: UInt64[np.ndarray, " 1"],
    ) -> "Candidates":
        """Every latent and context of `firings` in which it fires."""
        order = firings.by_latent
        latent, value = firings.latent[order], firings.value[order]
        context, position = np.divmod(firings.token[order], firings.tokens.shape[1])
        new = np.ones(len(latent), dtype=bool)
        new[1:] = (latent[1:] != latent[:-1]) | (context[1:] != context[:-1])
        start = np.flatnonzero(new)
        offset = np.append(start, len(latent))
        peak = np.maximum.reduceat(value, start) if len(start) else value
        is_peak = np.flatnonzero(value == peak.repeat(np.diff(offset)))
        at = is_peak[np.searchsorted(is_peak, start)]
        hashes = context_hash[context[start]]
        return Candidates(
            latent=latent[start],
            context=hashes,
            window=window_hash[context[start], position[at]],
            key=mix(mix(hashes ^ salt) ^ latent[start].astype(np.uint64)),
            peak=peak,
            peak_position=position[at],
            offset=offset,
            position=position,
            value=value,
        )

    @staticmethod
    def concatenate(parts: Sequence["Candidates"]) -> "Candidates":
        parts = [_NONE, *parts]
        sizes = np.cumsum([0, *(len(part.value) for part in parts)])
        offsets = [part.offset[:-1] + size for part, size in zip(parts, sizes[:-1], strict=True)]
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
        return Candidates(**columns | {"offset": np.append(np.concatenate(offsets), sizes[-1])})

    def take(self, rows: Int[np.ndarray, " row"]) -> "Candidates":
        """The given rows, in the given order, with their activations."""
        length = np.diff(self.offset)[rows]
        offset = np.append(0, length.cumsum())
        entry = np.arange(offset[-1]) + (self.offset[rows] - offset[:-1]).repeat(length)
        own = {name: column[rows] for name, column in vars(self).items() if name not in ("offset", "position", "value")}
        return Candidates(**own, offset=offset, position=self.position[entry], value=self.value[entry])


_NONE = Candidates(
    **{name: np.zeros(0, np.uint64) for name in ("context", "window", "key")},
    **{name: np.zeros(0, np.int32) for name in ("latent", "peak_position", "position")},
    **{name: np.zeros(0, np.float32) for name in ("peak", "value")},
    offset=np.zeros(1, np.int64),
)
