"""What the evaluation of an SAE comes to: figures that are saved as JSON, read again, and printed as a table."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How well x, the activation at a site, is reconstructed as x_hat, and what the model makes of x_hat in its place.

    Losses and KL are in nats per predicted token.
    """

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
    def from_dict(cls, saved: Mapping[str, Any]) -> Any:
        """The inverse of `to_dict`; what else `saved` holds is passed over."""
        figures = {field.name: saved[field.name] for field in fields(cls)}
        return cls(**{name: math.nan if value is None else value for name, value in figures.items()})


@dataclass(frozen=True, kw_only=True)
class SiteReport(Figures):
    """One of the sites that a crosscoder writes, with x_hat in its place alone."""

    site: str

    def row(self) -> tuple[str, str, str]:
        return self.site, f"{self.fvu:.4f}", f"FVU; loss recovered {_percent(self.loss_recovered)}, KL {self.kl:.4f}"


@dataclass(frozen=True, kw_only=True)
class SAEReport(Figures):
    """The quality of an SAE on a text. Of several sites, what concerns reconstruction is the mean over them, and losses
    and KL are with all of them replaced, or zeroed, at once.
    """

    corpus: str
    n_tokens: int
    """Text tokens measured on."""
    d_sae: int
    l0: float
    """Mean number of active latents per token."""
    dead: float
    """Fraction of latents that fired for none of the tokens."""
    dense: float
    """Fraction of latents that fired for more than a tenth of the tokens."""
    sites: tuple[SiteReport, ...] = ()
    """Each site by itself, where there are several."""

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"sites": [site.to_dict() for site in self.sites]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "SAEReport":
        sites = tuple(SiteReport.from_dict(site) for site in saved.get("sites", ()))
        return super().from_dict({**saved, "sites": sites})

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
            ("loss recovered", _percent(self.loss_recovered), "")
            if math.isfinite(self.loss_recovered)
            else ("loss recovered", "n/a", "zeroing does no harm"),
            ("KL recovered", f"{self.kl_recovered:.2%}", ""),
            *(site.row() for site in self.sites),
        ]

    def __str__(self) -> str:
        return "\n".join([f"Measured on {self.n_tokens:,} tokens of {self.corpus}:", *map(table_row, self.rows())])


def table_row(row: tuple[str, str, str]) -> str:
    name, value, remark = row
    return f"  {name:<30} {value:>9}  {remark}".rstrip()


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "n/a"
