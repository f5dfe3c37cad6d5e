"""Hashes that stand for a context, a window of tokens, or a random draw: the same whatever the order of the corpus.

Sampling by the smallest hash ("bottom-k", Cohen and Kaplan 2007) needs no state besides the sample, depends on the set
of items only, and lets partial samples merge into exactly the sample of the whole.
"""

import numpy as np
from jaxtyping import Int, UInt64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit moves every output bit."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_contexts(tokens: Int[np.ndarray, "context pos"]) -> UInt64[np.ndarray, " context"]:
    """A hash of all tokens of each context."""
    state = np.zeros(len(tokens), dtype=np.uint64)
    for column in tokens.T.astype(np.uint64):
        state = mix(state ^ column)
    return state


def hash_windows(tokens: Int[np.ndarray, "context pos"], width: int) -> UInt64[np.ndarray, "context pos"]:
    """A hash of the `width` tokens that end at each position; fewer at the start of a context."""
    ids = tokens.astype(np.uint64) + np.uint64(1)
    state = np.zeros_like(ids)
    for back in reversed(range(min(width, ids.shape[1]))):
        shifted = np.zeros_like(ids)
        shifted[:, back:] = ids[:, : ids.shape[1] - back]
        state = mix(state ^ shifted)
    return state
