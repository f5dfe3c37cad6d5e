"""In-context learning: how the loss falls along a context, as the model makes use of what it has read.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads". Their score is the loss on the 500th token of a
context minus that on the 50th, in contexts of 512, averaged over many; the more negative, the more is learned.

Positions are those in the context. Where short documents are packed whole into contexts, as Tinytown's are, the last
positions are always ends of documents, and some of the score is due to that.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from workbench.activations import special_ids
from workbench.corpus import Corpus
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel

EARLY, LATE = 50 / 512, 500 / 512
"""The paper's positions, as shares of the context."""
MAX_LOGITS = 2**25
"""Logits held at once: 128 MiB of 32-bit floats."""


@dataclass(frozen=True)
class InContext:
    """Loss by position, in nats, over contexts of a corpus; margins are half-widths of 95% intervals over contexts.

    Special tokens and padding are not predicted. A position where nothing is has NaN.
    """

    corpus: str
    contexts: int
    loss: Float[Tensor, " pos"]
    """Mean loss on the token at each position; nothing comes before the first, so that it has NaN."""
    loss_margin: Float[Tensor, " pos"]
    mean_loss: float
    """Over all tokens."""
    early: int
    late: int
    score: float
    """Loss at `late` minus loss at `early`, over the contexts that have both."""
    score_margin: float

    def __str__(self) -> str:
        early, late = (f"{self.loss[position]:.3f} at position {position}" for position in (self.early, self.late))
        return (
            f"In-context learning score {self.score:.3f} ± {self.score_margin:.3f} nats: "
            f"loss {late}, {early}\nMean loss {self.mean_loss:.3f}, over {self.contexts} contexts of {self.corpus}"
        )


def in_context(
    model: HookedModel, corpus: Corpus, *, contexts: int = 256, early: int | None = None, late: int | None = None
) -> InContext:
    """The loss at every position of the first `contexts` contexts of a corpus (fewer if it ends), and the score.

    `early`, `late`: positions, counted from 0, by default where the paper has them in proportion to the context.
    Raises `SettingError` for positions that are not in order within the context or less than two contexts,
    `CorpusError` for a corpus that holds too little.
    """
    early = max(1, int(EARLY * corpus.context)) if early is None else early
    late = int(LATE * corpus.context) if late is None else late
    if not 1 <= early < late < corpus.context:
        raise SettingError(
            f"early is {early} and late {late}; positions must be 1 <= early < late <= {corpus.context - 1}"
        )
    if contexts < 2:
        raise SettingError(f"contexts is {contexts}; an interval takes at least 2")
    if corpus.context > model.info.n_ctx:
        raise SettingError(f"contexts of {corpus.context} tokens; this model takes at most {model.info.n_ctx}")
    losses = _losses(model, corpus, contexts)
    difference = losses[:, late] - losses[:, early]
    difference = difference[difference.isfinite()]
    if len(difference) < 2:
        raise CorpusError(f"{corpus.name} holds less than two contexts with tokens at positions {early} and {late}")
    mean, margin = _mean(losses)
    score, score_margin = _mean(difference[:, None])
    return InContext(
        corpus=corpus.name,
        contexts=len(losses),
        loss=mean,
        loss_margin=margin,
        mean_loss=losses.nanmean().item(),
        early=early,
        late=late,
        score=score.item(),
        score_margin=score_margin.item(),
    )


def _losses(model: HookedModel, corpus: Corpus, contexts: int) -> Float[Tensor, "context pos"]:
    """The loss on every token, in nats; NaN on what is not to be predicted."""
    skip, parts, found = special_ids(model.tokenizer), [], 0
    batch_size = max(1, min(32, contexts, MAX_LOGITS // (corpus.context * model.info.d_vocab)))
    for batch in corpus.batches(batch_size):
        tokens = batch.tokens[: contexts - found].to(model.device)
        logits = model.run(tokens).logits[:, :-1].float()
        loss = cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").cpu()
        predicted = batch.mask(skip)[: len(tokens), 1:]
        parts.append(torch.nn.functional.pad(loss.masked_fill(~predicted, torch.nan), (1, 0), value=torch.nan))
        found += len(tokens)
        if found == contexts:
            break
    if not parts:
        raise CorpusError(f"{corpus.name} holds no text to measure on")
    return torch.cat(parts)


def _mean(values: Float[Tensor, "context column"]) -> tuple[Float[Tensor, " column"], Float[Tensor, " column"]]:
    """The mean of each column over the contexts that have a value, and 1.96 standard errors of it."""
    n = values.isfinite().sum(0)
    mean = values.nanmean(0)
    variance = (values - mean).square().nansum(0) / (n - 1).clamp_min(1)
    return mean, torch.where(n > 1, 1.96 * (variance / n).sqrt(), torch.nan)
