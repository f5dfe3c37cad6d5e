"""How well each latent, read as a yes/no question about a token, answers each concept."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64
from scipy.sparse import csr_array

from saes.index.firings import Firings
from workbench.scale import BANDS, bins_of, widen


class ConceptCounts:
    """For each latent, band of activation and concept: on how many tokens they come together."""

    def __init__(self, d_sae: int, n_concepts: int):
        self.joint: Int64[np.ndarray, "latent band concept"] = np.zeros((d_sae, BANDS, n_concepts), dtype=np.int64)
        self.n_tokens: Int64[np.ndarray, " concept"] = np.zeros(n_concepts, dtype=np.int64)

    def widen(self, steps: Int32[np.ndarray, " latent"]) -> None:
        widen(self.joint, steps)

    def update(self, firings: Firings, exponent: Int32[np.ndarray, " latent"]) -> None:
        if firings.labels is None:
            return
        labels = firings.labels.reshape(-1, firings.labels.shape[-1])
        self.n_tokens += labels[firings.counted.flatten()].sum(0)
        cell = firings.latent.astype(np.int64) * BANDS + bins_of(firings.value, exponent[firings.latent], BANDS)
        cells, row = np.unique(cell, return_inverse=True)
        active = csr_array((np.ones(len(row), np.float32), (row, firings.token)), shape=(len(cells), len(labels)))
        self.joint.reshape(-1, labels.shape[1])[cells] += (active @ labels.astype(np.float32)).astype(np.int64)

    def merge(self, other: "ConceptCounts") -> None:
        """Add one of the same scale."""
        self.joint += other.joint
        self.n_tokens += other.n_tokens


@dataclass(frozen=True)
class ConceptScores:
    """Precision, recall and F1 of "the activation is at least `threshold`" as a detector of the concept."""

    band: Int[np.ndarray, "latent concept"]
    """The threshold is the lower edge of this band; band 0 means any activation above zero."""
    precision: Float[np.ndarray, "latent concept"]
    recall: Float[np.ndarray, "latent concept"]
    f1: Float[np.ndarray, "latent concept"]

    def where(self, better: Bool[np.ndarray, "latent concept"], other: "ConceptScores") -> "ConceptScores":
        """These scores where `better` holds, the other's elsewhere."""
        names = ("band", "precision", "recall", "f1")
        return ConceptScores(*(np.where(better, getattr(self, name), getattr(other, name)) for name in names))


def concept_scores(
    counts: ConceptCounts, bands: Int64[np.ndarray, "latent band"]
) -> tuple[ConceptScores, ConceptScores]:
    """Scores at the threshold "above zero", and at the best threshold for F1 (the lowest of equals).

    The thresholds tried are zero and the lower edges of a latent's bands: 4 to 7 equal steps up to its maximum, see
    `workbench.scale`. Of `fired` tokens at or above the threshold and `n` labelled ones, `hits` are both:
    precision = hits / fired; recall = hits / n; F1 = 2 hits / (fired + n); each 0 where undefined.
    `bands`: on how many tokens each latent's activation lies in each band.
    """
    n = counts.n_tokens
    hits = np.zeros(counts.joint[:, 0].shape)
    fired = np.zeros((len(bands), 1))
    best = None
    for band in reversed(range(BANDS)):
        hits += counts.joint[:, band]
        fired += bands[:, band, None]
        scores = ConceptScores(
            band=np.full(hits.shape, band),
            precision=hits / np.maximum(fired, 1),
            recall=hits / np.maximum(n, 1),
            f1=2 * hits / np.maximum(fired + n, 1),
        )
        best = scores if best is None else scores.where(scores.f1 >= best.f1, best)
    return scores, best
