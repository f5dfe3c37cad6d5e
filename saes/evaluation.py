"""How good an SAE is: what it reconstructs, how sparsely, and what the model loses when it is spliced in.

All figures are over text only: special tokens (beginning-of-sequence, padding) are left out of the sums, and left as
they are both when the SAE is spliced in and when the site is zeroed. See `saes.sae`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.sae import SAE
from workbench.activations import special_ids
from workbench.corpus import Corpus
from workbench.edits import splice
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel

MAX_LOGITS = 2**25
"""Logits held at once for one run: 128 MiB of 32-bit floats."""


@dataclass(frozen=True)
class SAEReport:
    """The quality of an SAE on a text. Losses and KL are in nats per predicted token."""

    corpus: str
    n_tokens: int
    """Text tokens measured on."""
    d_sae: int
    l0: float
    """Mean number of active latents per token."""
    fvu: float
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean|^2, the mean taken over all tokens."""
    cosine: float
    """Mean cosine similarity of x and x_hat."""
    norm: float
    """Mean |x|."""
    norm_ratio: float
    """Mean |x_hat| / |x|: below 1 where the SAE shrinks."""
    relative_bias: float
    """mean |x_hat|^2 / mean (x · x_hat): the factor by which x_hat is too long, below 1 where the SAE shrinks. Source:
    Rajamanoharan et al. 2024, arXiv:2404.16014, "relative reconstruction bias"."""
    dead: float
    """Fraction of latents that fired for none of the tokens."""
    dense: float
    """Fraction of latents that fired for more than a tenth of the tokens."""
    ce_clean: float
    """Cross-entropy of the untouched model."""
    ce_spliced: float
    """Cross-entropy with x_hat in place of x."""
    ce_zero: float
    """Cross-entropy with 0 in place of x."""
    kl: float
    """KL divergence of the spliced model's predictions from the untouched one's."""
    kl_zero: float
    """The same with 0 in place of x."""

    @property
    def explained_variance(self) -> float:
        return 1 - self.fvu

    @property
    def loss_recovered(self) -> float:
        """(ce_zero - ce_spliced) / (ce_zero - ce_clean): 1 for a perfect SAE, 0 for one no better than zeros.

        NaN where zeroing the site does the model no harm, so that there is nothing to recover.
        """
        gap = self.ce_zero - self.ce_clean
        return (self.ce_zero - self.ce_spliced) / gap if gap > 0 else math.nan

    @property
    def kl_recovered(self) -> float:
        """1 - kl / kl_zero; NaN where zeroing the site changes nothing."""
        return 1 - self.kl / self.kl_zero if self.kl_zero > 0 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Every figure as a plain value; one that is not defined is None."""
        derived = ("explained_variance", "loss_recovered", "kl_recovered")
        figures = asdict(self) | {name: getattr(self, name) for name in derived}
        return {name: None if value != value else value for name, value in figures.items()}

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> "SAEReport":
        """The report that `to_dict` made these figures of."""
        own = {field.name: figures[field.name] for field in fields(cls)}
        return cls(**{name: math.nan if value is None else value for name, value in own.items()})

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value, remark) of every line of the table."""
        return [
            ("active latents per token (L0)", f"{self.l0:.1f}", f"of {self.d_sae:,}"),
            ("variance unexplained (FVU)", f"{self.fvu:.4f}", f"explained {self.explained_variance:.2%}"),
            (
                "cosine similarity",
                f"{self.cosine:.4f}",
                f"mean |x| {self.norm:.3g}, |x_hat| / |x| {self.norm_ratio:.3f}",
            ),
            ("relative bias", f"{self.relative_bias:.4f}", "below 1: shrunk"),
            ("dead latents", f"{self.dead:.2%}", "never active on this text"),
            ("dense latents", f"{self.dense:.2%}", "active on more than 10% of tokens"),
            ("loss, untouched", f"{self.ce_clean:.4f}", "nats per token"),
            ("loss, SAE spliced in", f"{self.ce_spliced:.4f}", f"KL from untouched {self.kl:.4f}"),
            ("loss, site zeroed", f"{self.ce_zero:.4f}", f"KL from untouched {self.kl_zero:.4f}"),
            ("loss recovered", f"{self.loss_recovered:.2%}", "")
            if math.isfinite(self.loss_recovered)
            else ("loss recovered", "n/a", "zeroing does no harm"),
            ("KL recovered", f"{self.kl_recovered:.2%}", ""),
        ]

    def __str__(self) -> str:
        return "\n".join([f"Measured on {self.n_tokens:,} tokens of {self.corpus}:", *map(table_row, self.rows())])


def table_row(row: tuple[str, str, str]) -> str:
    name, value, remark = row
    return f"  {name:<30} {value:>9}  {remark}".rstrip()


def evaluate(
    sae: SAE,
    model: HookedModel,
    corpus: Corpus,
    n_tokens: int,
    on_progress: Callable[[int], None] | None = None,
) -> SAEReport:
    """Measure an SAE on the first `n_tokens` or so text tokens of a corpus (whole batches; fewer if it ends).

    `on_progress` is called with the number of tokens done. Raises `SettingError` if the SAE does not fit the model, and
    `CorpusError` if the corpus holds no text.
    """
    site, skip = sae.site, special_ids(model.tokenizer)
    reconstruction, prediction = _Reconstruction(sae), _Prediction()
    batch_size = max(1, min(32, MAX_LOGITS // (corpus.context * model.info.d_vocab)))
    for batch in corpus.batches(batch_size):
        tokens, keep = batch.tokens.to(model.device), batch.mask(skip).to(model.device)
        clean = model.run(tokens, capture=[site])
        rows = clean[site].flatten(2)[keep].float()
        if rows.shape[1] != sae.cfg.d_in:
            raise SettingError(f"the SAE takes {sae.cfg.d_in} dimensions, and {site} of this model has {rows.shape[1]}")
        reconstruction.add(rows)
        spliced = model.run(tokens, edits=[splice(site, on_text(sae, keep))])
        zeroed = model.run(tokens, edits=[splice(site, on_text(torch.zeros_like, keep))])
        prediction.add(tokens, keep, clean.logits, spliced.logits, zeroed.logits)
        if on_progress:
            on_progress(reconstruction.n)
        if reconstruction.n >= n_tokens:
            break
    if not reconstruction.n:
        raise CorpusError(f"{corpus.name} holds no text to measure on")
    return SAEReport(corpus=corpus.name, d_sae=sae.cfg.d_sae, **reconstruction.figures(), **prediction.figures())


def on_text(replacement: Callable[[Tensor], Tensor], keep: Bool[Tensor, "batch pos"]) -> Callable[[Tensor], Tensor]:
    """`replacement` for the activations at kept positions; the others pass through."""

    def module(activation: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch pos *rest"]:
        rows = activation.flatten(2)
        replaced = replacement(rows[keep].float()).to(rows.dtype)
        return rows.index_put((keep,), replaced).view_as(activation)

    return module


def of_text(
    logits: Float[Tensor, "batch pos d_vocab"], keep: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "prediction d_vocab"]:
    """Log-probabilities where the next token is text."""
    return logits[:, :-1][keep[:, 1:]].float().log_softmax(-1)


class _Reconstruction:
    """Running sums over rows, in 64-bit floats."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self.n = 0
        self.total = torch.zeros(sae.cfg.d_in, dtype=torch.float64)
        self.squares = self.errors = self.cosine = self.norm = self.ratio = self.product = self.squares_hat = 0.0
        self.fired = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)

    @torch.no_grad()
    def add(self, x: Float[Tensor, "rows d_in"]) -> None:
        latents = self.sae.encode(x)
        x_hat = self.sae.decode(latents)
        active = latents > 0
        norms, norms_hat = x.norm(dim=1), x_hat.norm(dim=1)
        self.n += len(x)
        self.total += x.double().sum(0).cpu()
        self.squares += x.double().square().sum().item()
        self.errors += (x - x_hat).double().square().sum().item()
        self.fired += active.sum(0).cpu()
        self.cosine += F.cosine_similarity(x, x_hat).double().sum().item()
        self.norm += norms.double().sum().item()
        self.product += (x.double() * x_hat).sum().item()
        self.squares_hat += norms_hat.double().square().sum().item()
        self.ratio += (norms_hat / norms.clamp_min(1e-12)).double().sum().item()

    def figures(self) -> dict[str, Any]:
        variance = self.squares - self.total.square().sum().item() / self.n
        return {
            "n_tokens": self.n,
            "l0": self.fired.sum().item() / self.n,
            "fvu": self.errors / variance if variance > 0 else math.nan,
            "cosine": self.cosine / self.n,
            "norm": self.norm / self.n,
            "norm_ratio": self.ratio / self.n,
            "relative_bias": self.squares_hat / self.product if self.product else math.nan,
            "dead": (self.fired == 0).float().mean().item(),
            "dense": (self.fired > self.n / 10).float().mean().item(),
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
