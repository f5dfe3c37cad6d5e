"""All that a pass over a corpus gathers about an SAE's latents. Parts of a corpus can be gathered apart and merged."""

import numpy as np

from saes.index.activity import Activity
from saes.index.coactivation import CoActivation
from saes.index.concepts import ConceptCounts
from saes.index.examples import WINDOW, ExamplePool
from saes.index.firings import Firings
from saes.index.hashing import hash_contexts, hash_windows


class IndexAccumulator:
    """Feed it every batch once, in any order.

    Memory, for 65,536 latents, 64 concepts and contexts of 128 tokens: histograms 34 MB, concept counts 270 MB,
    examples and the sample of co-active latents a few hundred MB each at most; none of it grows with the corpus.
    """

    def __init__(self, d_sae: int, n_concepts: int = 0, seed: int = 0):
        self.activity = Activity(d_sae)
        self.concepts = ConceptCounts(d_sae, n_concepts)
        self.examples = ExamplePool(d_sae, seed)
        self.coactivation = CoActivation(d_sae)

    def update(self, firings: Firings) -> None:
        maximum = np.zeros_like(self.activity.maximum)
        np.maximum.at(maximum, firings.latent, firings.value)
        self._raise_maximum(maximum)
        exponent = self.activity.exponent
        context_hash = hash_contexts(firings.tokens)
        self.activity.update(firings)
        self.concepts.update(firings, exponent)
        self.examples.update(firings, exponent, context_hash, hash_windows(firings.tokens, WINDOW))
        self.coactivation.update(firings, context_hash)

    def merge(self, other: "IndexAccumulator") -> None:
        """Add what `other` gathered on another part of the corpus, with the same seed. `other` is used up.

        The result is that of one pass over both parts, but for the rounding of the sums of activations.
        """
        self._raise_maximum(other.activity.maximum)
        other._raise_maximum(self.activity.maximum)
        for part in ("activity", "concepts", "examples", "coactivation"):
            getattr(self, part).merge(getattr(other, part))

    def _raise_maximum(self, maximum: np.ndarray) -> None:
        steps = self.activity.raise_maximum(maximum)
        self.concepts.widen(steps)
        self.examples.widen(steps)
