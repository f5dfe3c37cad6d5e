"""How heads attend over a corpus: how widely, how far, and how much of it position alone decides.

Over all contexts, and all queries but padding and the first (which can look only at itself):

*Entropy* of a row of the pattern, in nats, its mean. *Distance*: the mean over queries of Σ α (query - key), in tokens.

*Positional share*: of the variance of the pattern over contexts and keys, the share that is explained by the mean
pattern over contexts at each (query, key): Σ (M - u)² / Σ (A - u)², where A is the pattern of a context, M its mean
over contexts and u = 1 / (number of keys) the mean of every row. The rest, Σ (A - M)², is content: what differs between
contexts at the same positions. 1 for a head whose pattern is the same whatever it reads. Of n contexts that share
nothing M keeps 1/n of the variance by chance, so give it many.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from workbench.attention import PATTERN
from workbench.corpus import Corpus, TokenBatch
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel

CONTEXTS = 256
"""How many contexts are read if nothing else is said."""


@dataclass(frozen=True)
class AttentionProfile:
    """Entropy (nats), mean distance (tokens) and positional share of every head; see the module."""

    entropy: Float[Tensor, "layer head"]
    distance: Float[Tensor, "layer head"]
    positional: Float[Tensor, "layer head"]
    n_contexts: int
    corpus: str

    def __str__(self) -> str:
        lines = [f"Over {self.n_contexts} contexts of {self.corpus}: entropy (nats), mean distance, positional share"]
        for layer, rows in enumerate(zip(self.entropy, self.distance, self.positional, strict=True)):
            heads = zip(*(row.tolist() for row in rows), strict=True)
            cells = (f"H{head} {e:5.2f} {d:5.1f} {p:4.0%}" for head, (e, d, p) in enumerate(heads))
            lines.append(f"  L{layer}  " + "   ".join(cells))
        return "\n".join(lines)


class _Sums:
    """Running sums over contexts, in double precision; memory is that of two patterns of all heads."""

    def __init__(self) -> None:
        self.pattern: Float64[Tensor, "layer head query key"] | int = 0
        self.square: Float64[Tensor, "layer head query"] | int = 0
        self.entropy: Float64[Tensor, "layer head"] | int = 0
        self.distance: Float64[Tensor, "layer head"] | int = 0
        self.count: Int[Tensor, " query"] | int = 0

    def add(self, patterns: Float[Tensor, "layer row head query key"], counted: Bool[Tensor, "row query"]) -> None:
        patterns = patterns * counted[None, :, None, :, None]
        position = torch.arange(patterns.shape[-1], device=patterns.device)
        back = position[:, None] - position
        self.pattern = self.pattern + patterns.sum(1, dtype=torch.float64)
        self.square = self.square + patterns.square().sum((1, 4), dtype=torch.float64)
        self.entropy = self.entropy + torch.special.entr(patterns).sum((1, 3, 4), dtype=torch.float64)
        self.distance = self.distance + (patterns * back).sum((1, 3, 4), dtype=torch.float64)
        self.count = self.count + counted.sum(0)

    def positional(self) -> Float64[Tensor, "layer head"]:
        """Of rows with n contexts: Σ (A - u)² = Σ A² - n u, as a row of A sums to 1 and u is 1 / keys."""
        n, keys = self.count.double(), torch.arange(1, len(self.count) + 1, device=self.count.device)
        between = (self.pattern.square().sum(-1) / n.clamp_min(1) - n / keys).sum(-1)
        return between / (self.square - n / keys).sum(-1).clamp_min(1e-12)


@torch.no_grad()
def attention_profile(
    model: HookedModel,
    corpus: Corpus,
    *,
    n_contexts: int = CONTEXTS,
    batch_size: int = 8,
    on_progress: Callable[[int], None] | None = None,
) -> AttentionProfile:
    """Read the first `n_contexts` contexts of a corpus. `on_progress` is called with how many are done.

    Raises `SettingError` for fewer than two contexts, `CorpusError` if the corpus does not fit the model or ends early.
    """
    if n_contexts < 2:
        raise SettingError(f"n_contexts is {n_contexts}; what differs between contexts takes at least 2")
    if corpus.context > model.info.n_ctx:
        raise CorpusError(f"contexts of {corpus.context} tokens are too long for a model that reads {model.info.n_ctx}")
    sums, done = _Sums(), 0
    for batch in _first(corpus.batches(batch_size), n_contexts):
        patterns = model.run(batch.tokens, capture=[PATTERN], stop_after=PATTERN).stack(PATTERN).float()
        counted = batch.mask()
        counted[:, 0] = False
        sums.add(patterns, counted.to(patterns.device))
        done += len(batch.tokens)
        if on_progress:
            on_progress(done)
    if done < 2:
        raise CorpusError(f"{corpus.name} holds {done} contexts; what differs between contexts takes at least 2")
    n_queries = sums.count.sum()
    scores = (sums.entropy / n_queries, sums.distance / n_queries, sums.positional())
    return AttentionProfile(*(score.float().cpu() for score in scores), n_contexts=done, corpus=corpus.name)


def _first(batches: Iterable[TokenBatch], n_contexts: int) -> Iterable[TokenBatch]:
    for batch in batches:
        if n_contexts <= 0:
            return
        keep = {name: value[:n_contexts] for name, value in vars(batch).items() if isinstance(value, Tensor)}
        yield TokenBatch(**vars(batch) | keep)
        n_contexts -= len(batch.tokens)
