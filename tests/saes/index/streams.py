"""Random activations with a known dense form, and the same as firings."""

from dataclasses import dataclass

import numpy as np

from saes.index.accumulator import IndexAccumulator
from saes.index.firings import Firings

D_SAE, POS, VOCABULARY, CONCEPTS = 12, 9, 7, 3


@dataclass(frozen=True)
class Stream:
    """Some contexts, densely: what brute force works on."""

    dense: np.ndarray
    """[context, pos, latent]; 0 at tokens that do not count."""
    tokens: np.ndarray
    documents: np.ndarray
    counted: np.ndarray
    labels: np.ndarray

    def part(self, rows: slice) -> Firings:
        context, position, latent = np.nonzero(self.dense[rows])
        return Firings(
            tokens=self.tokens[rows],
            documents=self.documents[rows],
            counted=self.counted[rows],
            labels=self.labels[rows],
            token=(context * POS + position).astype(np.int32),
            latent=latent.astype(np.int32),
            value=self.dense[rows][context, position, latent],
        )


def random_stream(n_contexts: int = 60, seed: int = 0) -> Stream:
    """Latents of very different rates and scales, the last one dead; activations grow along the stream."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, VOCABULARY, (n_contexts, POS))
    documents = np.sort(random.integers(0, 3 * n_contexts, n_contexts * POS)).reshape(n_contexts, POS)
    documents[-1, 6:] = -1
    counted = (documents >= 0) & (tokens != 0)
    rate = np.append(np.linspace(0.02, 0.8, D_SAE - 1), 0)
    dense = random.lognormal(sigma=1.5, size=(n_contexts, POS, D_SAE)) * np.linspace(0.1, 5, D_SAE)
    dense *= (random.random(dense.shape) < rate) & counted[..., None]
    dense *= np.linspace(0.01, 1, n_contexts)[:, None, None]
    labels = (random.random((n_contexts, POS, CONCEPTS)) < 0.3) | (dense[..., [3, 5, 7]] > 1)
    return Stream(dense.astype(np.float32), tokens, documents, counted, labels)


def accumulate(stream: Stream, *parts: slice, seed: int = 0) -> IndexAccumulator:
    found = IndexAccumulator(D_SAE, CONCEPTS, seed)
    for part in parts or (slice(None),):
        found.update(stream.part(part))
    return found
