"""All that a pass over a corpus gathers about an SAE's latents. Parts of a corpus can be gathered apart and merged."""

import numpy as np

from saes.index.activity import Activity
from saes.index.coactivation import CoActivation
from saes.index.concepts import ConceptCounts
from saes.index.examples import WINDOW, ExamplePool
from saes.index.firings import Firings
from saes.index.quantiles import ValueSample
from workbench.hashing import hash_contexts, hash_windows


class IndexAccumulator:
    """Feed it every batch once, in any order.

    Memory, for 65,536 latents: histograms and sums 60 MB, concept counts 4 MB for each concept, values for quantiles
    130 MB, examples and the sample of co-active latents a few hundred MB each at most.
    """

    def __init__(self, d_sae: int, n_concepts: int = 0, seed: int = 0):
        self.activity = Activity(d_sae)
        self.concepts = ConceptCounts(d_sae, n_concepts)
        self.examples = ExamplePool(d_sae, seed)
        self.coactivation = CoActivation(d_sae)
        self.values = ValueSample(d_sae)
        self.d_sae, self.n_concepts, self.seed = d_sae, n_concepts, seed

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays that grow with what was read."""
        parts = (*self.examples.parts, *self.values.parts)
        held = sum(column.nbytes for part in parts for column in vars(part).values())
        held += sum(column.nbytes for sample in self.coactivation.parts for column in sample)
        contexts = self.examples.contexts
        each = sum(column.nbytes for column in next(iter(contexts.values()), ()))
        return held + len(contexts) * each

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
        self.values.update(firings, context_hash)

    def merge(self, other: "IndexAccumulator") -> None:
        """Add what `other` gathered on another part of the corpus, with the same seed. `other` is used up.

        The result is that of one pass over both parts, value for value.
        """
        self._raise_maximum(other.activity.maximum)
        other._raise_maximum(self.activity.maximum)
        for part in ("activity", "concepts", "examples", "coactivation", "values"):
            getattr(self, part).merge(getattr(other, part))

    def _raise_maximum(self, maximum: np.ndarray) -> None:
        steps = self.activity.raise_maximum(maximum)
        self.concepts.widen(steps)
        self.examples.widen(steps)
