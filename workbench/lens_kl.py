"""How much is lost by reading a layer in place of the model's prediction: KL by layer, on text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.activations import ActivationBatch, harvest
from workbench.corpus import Corpus
from workbench.errors import CorpusError
from workbench.model import HookedModel
from workbench.tuned_lens import TunedLens, rows_of

LOGITS_AT_ONCE = 2**24
"""Logits are computed for so many positions at a time that there are about this many numbers: 64 MiB in float32."""


@dataclass(frozen=True)
class LensKL:
    """Mean KL(final ‖ layer), in nats a token: each layer but the last, read by the logit lens and by a tuned one."""

    labels: list[str]
    """ "embed", "0", "1", …"""
    logit: list[float]
    tuned: list[float]
    tokens: int
    """How many were measured."""
    text: str
    """The name of the corpus."""

    def __str__(self) -> str:
        lines = [f"KL to the final distribution, nats a token, on {self.tokens:,} tokens of {self.text}"]
        lines.append("  layer  logit lens  tuned lens")
        for row in zip(self.labels, self.logit, self.tuned, strict=True):
            lines.append("  {:>5}  {:10.4f}  {:10.4f}".format(*row))
        return "\n".join(lines)


def stream_rows(batch: ActivationBatch, n_layers: int) -> list[Float[Tensor, "row d_model"]]:
    """The residual stream at every real token: the embedding's, then each layer's."""
    return [batch.rows(site) for site in rows_of(n_layers)]


def chunks(rows: Sequence[Tensor], d_vocab: int) -> Iterator[tuple[Tensor, ...]]:
    """Stretches of the rows, the same of each, short enough that their logits fit `LOGITS_AT_ONCE`."""
    return zip(*(part.split(max(1, LOGITS_AT_ONCE // d_vocab)) for part in rows), strict=True)


def log_probs(model: HookedModel, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    return model.unembed(resid).float().log_softmax(-1)


def kl(final: Float[Tensor, "row d_vocab"], read: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
    """KL(final ‖ read), in nats, of log-probabilities."""
    return (final.exp() * (final - read)).sum(-1)


@torch.no_grad()
def lens_kl(model: HookedModel, corpus: Corpus, lens: TunedLens, n_tokens: int) -> LensKL:
    """Measure the logit lens and a tuned lens on the first `n_tokens` of a corpus, or a few more, all of it if shorter.

    Raises `ModelError` if the lens is another model's, `CorpusError` if the corpus is empty or does not fit the model.
    """
    lens.check(model)
    sums, n_rows = torch.zeros(2, len(lens.sites), dtype=torch.float64), 0
    for batch in harvest(model, corpus, rows_of(model.info.n_layers), n_tokens=n_tokens, batch_size=8):
        rows = stream_rows(batch, model.info.n_layers)
        n_rows += len(rows[0])
        for *layers, last in chunks(rows, model.info.d_vocab):
            final = log_probs(model, last)
            for number, (site, resid) in enumerate(zip(lens.sites, layers, strict=True)):
                for which, read in enumerate((resid, lens.translate(resid, site))):
                    sums[which, number] += kl(final, log_probs(model, read)).sum().item()
    if not n_rows:
        raise CorpusError(f"{corpus.name} holds no tokens to measure a lens on")
    logit, tuned = (sums / n_rows).tolist()
    labels = ["embed", *map(str, range(model.info.n_layers - 1))]
    return LensKL(labels, logit, tuned, n_rows, corpus.name)
