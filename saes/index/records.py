"""What a feature index answers with."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """A context in which the latent fires. All lists have one item for each token of the context, padding left out."""

    tokens: list[int]
    strings: list[str]
    activations: list[float]
    """0 where the latent is silent, and at special tokens, which an SAE does not read."""
    documents: list[int]
    """The number of the document that each token belongs to."""
    peak: int
    """The position of the largest activation."""
    band: int | None
    """Which of the record's bands the example was sampled from; None for the top examples."""

    @property
    def maximum(self) -> float:
        return self.activations[self.peak]

    @property
    def document(self) -> int:
        """The document that the peak lies in."""
        return self.documents[self.peak]


@dataclass(frozen=True)
class Band:
    """An interval of activations, low <= activation < high, and the number of tokens whose activation lies in it."""

    low: float
    high: float
    n_tokens: int


@dataclass(frozen=True)
class LogitEffect:
    token: int
    string: str
    effect: float


@dataclass(frozen=True)
class Neighbour:
    latent: int
    cosine: float


@dataclass(frozen=True)
class Partner:
    """A latent that fires on the same tokens."""

    latent: int
    together: int
    """Tokens, of those counted, on which both fire."""
    phi: float
    """Correlation of the yes/no variables "fires", -1 to 1."""
    jaccard: float
    """Tokens on which both fire / tokens on which either does."""


@dataclass(frozen=True)
class ConceptScore:
    """How well "the activation is at least `threshold`" (threshold 0: above zero) detects a concept."""

    concept: str
    latent: int
    threshold: float
    precision: float
    recall: float
    f1: float
    f1_at_zero: float
    """F1 of "the activation is above zero"."""


@dataclass(frozen=True)
class LatentRecord:
    """All that is known of one latent."""

    latent: int
    density: float
    """Share of tokens on which it fires."""
    n_active: int
    maximum: float
    mean: float
    """Mean of its activations above zero; 0 for a dead latent."""
    bin_width: float
    histogram: list[int]
    """Tokens with an activation above zero in [i * bin_width, (i + 1) * bin_width), up to the maximum."""
    bands: list[Band]
    quantiles: list[float]
    """Of its activations above zero, at the shares `saes.index.quantiles.SHARES`; empty for a dead latent."""
    quantiles_exact: bool
    """Whether the quantiles are of all its activations, not of a uniform sample of them."""
    top_logits: list[LogitEffect]
    bottom_logits: list[LogitEffect]
    neighbours: list[Neighbour]
    coactive: list[Partner]
    concepts: list[ConceptScore]
    """Best first."""
    examples: list[Example]
    """Top examples, largest first, then samples from the highest band to the lowest."""

    @property
    def top_examples(self) -> list[Example]:
        return [example for example in self.examples if example.band is None]

    def sampled(self, band: int) -> list[Example]:
        """The examples drawn from one band."""
        return [example for example in self.examples if example.band == band]


@dataclass(frozen=True)
class Page:
    """Some rows of the table of latents."""

    rows: list[dict[str, Any]]
    total: int
    """How many rows there are with the same filters, on all pages."""


@dataclass(frozen=True)
class Summary:
    """What an index was made from, and the state of the SAE as a whole. Hashes are short strings."""

    n_latents: int
    n_dead: int
    """Latents that never fired."""
    n_tokens: int
    """Text tokens read: padding and special tokens do not count."""
    l0: float
    """Mean number of latents that fire on a token."""
    site: str
    model: str
    model_fingerprint: str
    corpus: str
    corpus_fingerprint: str
    sae_fingerprint: str
    context: int
    seed: int
    coactivation_tokens: int
    """Tokens on which co-activation was counted: all, or a uniform sample."""
    concepts: dict[str, int]
    """Tokens labelled with each concept."""

    def __str__(self) -> str:
        return (
            f"{self.n_latents:,} latents at {self.site} of {self.model}\n"
            f"  over {self.n_tokens:,} tokens of {self.corpus}: "
            f"L0 {self.l0:.1f}, dead {self.n_dead:,} ({self.n_dead / self.n_latents:.1%})"
        )


@dataclass(frozen=True)
class Coverage:
    """Of the concepts that occur in the corpus, those that some latent detects."""

    f1: float
    """The F1 that counts as detecting."""
    best: list[ConceptScore]
    """The best latent of each concept that any latent fires on, best first."""
    n_concepts: int

    @property
    def covered(self) -> list[ConceptScore]:
        return [score for score in self.best if score.f1 >= self.f1]

    @property
    def share(self) -> float:
        return len(self.covered) / self.n_concepts if self.n_concepts else 0.0

    def __str__(self) -> str:
        head = (
            f"{len(self.covered)} of {self.n_concepts} concepts ({self.share:.0%}) have a latent with F1 >= {self.f1:g}"
        )
        lines = [
            f"  {score.f1:.3f}  {score.concept:<28} latent {score.latent:>6}  precision {score.precision:.3f}  "
            f"recall {score.recall:.3f}  (F1 {score.f1_at_zero:.3f} above zero)"
            for score in self.best
        ]
        return "\n".join([head, *lines])


@dataclass(frozen=True)
class Report:
    """What an index holds, at a glance."""

    directory: str
    summary: Summary
    coverage: Coverage | None
    """None for a corpus without concept labels."""

    def __str__(self) -> str:
        parts = [str(self.summary), *([str(self.coverage)] if self.coverage else [])]
        return "\n".join([*parts, f"`workbench app --sae {self.directory}` shows it"])
