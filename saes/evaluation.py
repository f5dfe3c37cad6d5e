"""How good an SAE is: what it reconstructs, how sparsely, and what the model loses when it is spliced in.

One path for all: capture the sites that it reads, reconstruct those that it writes, and put that in their place. All
figures are over text only: special tokens (beginning-of-sequence, padding) are left out of the sums, and left as they
are both when the SAE is spliced in and when the site is zeroed. See `saes.sae`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.report import SAEReport, SiteReport
from saes.route import check_route, rows_at
from saes.sae import SAE
from workbench.activations import special_ids
from workbench.corpus import Corpus
from workbench.edits import splice
from workbench.errors import CorpusError
from workbench.model import HookedModel

MAX_LOGITS = 2**25
"""Logits held at once for one run: 128 MiB of 32-bit floats."""


def evaluate(
    sae: SAE,
    model: HookedModel,
    corpus: Corpus,
    n_tokens: int,
    on_progress: Callable[[int], None] | None = None,
) -> SAEReport:
    """Measure an SAE on the first `n_tokens` or so text tokens of a corpus (whole batches; fewer if it ends).

    A site is replaced by what the SAE reconstructs from the untouched model's activations. `on_progress` is called with
    the number of tokens done. Raises `SettingError` if the SAE does not fit the model, and `CorpusError` if the corpus
    holds no text.
    """
    check_route(sae, model)
    sites, writes, skip = sae.route.sites, sae.route.writes, special_ids(model.tokenizer)
    activity, reconstructions = _Activity(sae.cfg.d_sae), {site: _Reconstruction() for site in writes}
    predictions = {group: _Prediction() for group in dict.fromkeys([*((site,) for site in writes), writes])}
    batch_size = max(1, min(32, MAX_LOGITS // (corpus.context * model.info.d_vocab)))
    for batch in corpus.batches(batch_size):
        tokens, keep = batch.tokens.to(model.device), batch.mask(skip).to(model.device)
        clean = model.run(tokens, capture=sites)
        x, target = sae.split(rows_at(sae, sites, clean.activations, keep).float())
        with torch.no_grad():
            _, active = sae.code(x)
            x_hat = dict(zip(writes, sae.parts(sae.reconstruct(x, active)), strict=True))
        activity.add(active.to_dense())
        for site, part in zip(writes, sae.parts(target), strict=True):
            reconstructions[site].add(part, x_hat[site])
        for group, prediction in predictions.items():
            edits = [splice(site, on_text(lambda _, rows=x_hat[site]: rows, keep)) for site in group]
            spliced = model.run(tokens, edits=edits)
            zeroed = model.run(tokens, edits=[splice(site, on_text(torch.zeros_like, keep)) for site in group])
            prediction.add(tokens, keep, clean.logits, spliced.logits, zeroed.logits)
        if on_progress:
            on_progress(activity.n)
        if activity.n >= n_tokens:
            break
    if not activity.n:
        raise CorpusError(f"{corpus.name} holds no text to measure on")
    each = {site: reconstruction.figures() for site, reconstruction in reconstructions.items()}
    several = writes if len(writes) > 1 else ()
    return SAEReport(
        corpus=corpus.name,
        d_sae=sae.cfg.d_sae,
        **activity.figures(),
        **_mean(list(each.values())),
        **predictions[writes].figures(),
        sites=tuple(SiteReport(site=site, **each[site], **predictions[site,].figures()) for site in several),
    )


def on_text(replacement: Callable[[Tensor], Tensor], keep: Bool[Tensor, "batch pos"]) -> Callable[[Tensor], Tensor]:
    """`replacement` for the activations at kept positions; the others pass through."""

    def module(activation: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch pos *rest"]:
        rows = activation.flatten(2)
        replaced = replacement(rows[keep].float()).to(rows.dtype)
        return rows.index_put((keep,), replaced).view_as(activation)

    return module


def _mean(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in figures) / len(figures) for name in figures[0]}


class _Activity:
    """How often each latent fires."""

    def __init__(self, d_sae: int) -> None:
        self.n = 0
        self.fired = torch.zeros(d_sae, dtype=torch.int64)

    def add(self, latents: Float[Tensor, "row d_sae"]) -> None:
        self.n += len(latents)
        self.fired += (latents > 0).sum(0).cpu()

    def figures(self) -> dict[str, Any]:
        return {
            "n_tokens": self.n,
            "l0": self.fired.sum().item() / self.n,
            "dead": (self.fired == 0).float().mean().item(),
            "dense": (self.fired > self.n / 10).float().mean().item(),
        }


def of_text(
    logits: Float[Tensor, "batch pos d_vocab"], keep: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "prediction d_vocab"]:
    """Log-probabilities where the next token is text."""
    return logits[:, :-1][keep[:, 1:]].float().log_softmax(-1)


class _Reconstruction:
    """Running sums over the rows of a site, in 64-bit floats."""

    def __init__(self) -> None:
        self.n = 0
        self.total: Tensor | float = 0.0
        self.squares = self.errors = self.cosine = self.norm = self.ratio = self.product = self.squares_hat = 0.0

    def add(self, x: Float[Tensor, "row d"], x_hat: Float[Tensor, "row d"]) -> None:
        norms, norms_hat = x.norm(dim=1), x_hat.norm(dim=1)
        self.n += len(x)
        self.total += x.double().sum(0).cpu()
        self.squares += x.double().square().sum().item()
        self.errors += (x - x_hat).double().square().sum().item()
        self.cosine += F.cosine_similarity(x, x_hat).double().sum().item()
        self.norm += norms.double().sum().item()
        self.product += (x.double() * x_hat).sum().item()
        self.squares_hat += norms_hat.double().square().sum().item()
        self.ratio += (norms_hat / norms.clamp_min(1e-12)).double().sum().item()

    def figures(self) -> dict[str, float]:
        variance = self.squares - self.total.square().sum().item() / self.n
        return {
            "fvu": self.errors / variance if variance > 0 else math.nan,
            "cosine": self.cosine / self.n,
            "norm": self.norm / self.n,
            "norm_ratio": self.ratio / self.n,
            "relative_bias": self.squares_hat / self.product if self.product else math.nan,
        }


class _Prediction:
    """Running sums over the positions whose next token is text."""

    def __init__(self) -> None:
        self.n = 0
        self.ce = torch.zeros(3, dtype=torch.float64)
        self.kl = torch.zeros(2, dtype=torch.float64)

    def add(self, tokens: Int[Tensor, "batch pos"], keep: Bool[Tensor, "batch pos"], *logits: Tensor) -> None:
        target = tokens[:, 1:][keep[:, 1:]]
        clean, *edited = (of_text(one, keep) for one in logits)
        self.n += len(target)
        for i, log_probs in enumerate((clean, *edited)):
            self.ce[i] += F.nll_loss(log_probs, target, reduction="sum").item()
        for i, log_probs in enumerate(edited):
            self.kl[i] += F.kl_div(log_probs, clean, log_target=True, reduction="sum").item()

    def figures(self) -> dict[str, float]:
        n = max(self.n, 1)
        names = ("ce_clean", "ce_spliced", "ce_zero", "kl", "kl_zero")
        return dict(zip(names, [*(self.ce / n).tolist(), *(self.kl / n).tolist()], strict=True))
