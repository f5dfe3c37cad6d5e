"""How many concepts a unit answers to: for the neurons of an MLP, the latents of an SAE, or any matrix of activations.

Two exact measures, of each unit's activations a over tokens that are labelled with concepts:

*Effective number of concepts*: exp(-Σ p log p), p being the shares of the unit's energy Σ a² on tokens of each concept;
the energy of a token with several concepts is divided evenly among them, and tokens without any are one more concept.
1 for a unit that is active on one concept only; a unit that is active everywhere alike has the number that the corpus
itself has. It needs no threshold and treats activations above and below zero alike.

*Concepts answered to*: those that the unit separates from the other tokens with an AUROC of at least 0.9, or at most
0.1 (it is low where the concept holds). AUROC is the probability that a random token with the concept has a higher
activation than a random one without it, ties counting half. A unit that is silent on a tenth of a concept's tokens or
more cannot reach 0.95, so sparse units answer to fewer; the effective number has no such bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import mannwhitneyu, rankdata
from torch import Tensor

from workbench.errors import SettingError

ANSWERS = 0.9
"""The AUROC, or one minus it, from which a unit answers to a concept."""
RARE = 20
"""Concepts on fewer tokens are left out; units that are other than zero on fewer tokens are not counted."""
ENTRIES = 2**22
"""Activations that are ranked at a time."""


@dataclass(frozen=True)
class Selectivity:
    """The units of one site against concepts. NaN and 0 for units that are almost always zero."""

    name: str
    concepts: tuple[str, ...]
    """Those on enough tokens."""
    effective: Float[Tensor, " unit"]
    """Effective number of concepts."""
    auroc: Float[Tensor, "unit concept"]
    corpus: float
    """The effective number of concepts of a unit that is active on all tokens alike."""
    n_tokens: int

    @property
    def alive(self) -> Bool[Tensor, " unit"]:
        return ~self.effective.isnan()

    @property
    def answers(self) -> Float[Tensor, " unit"]:
        """The number of concepts that each unit answers to."""
        return ((self.auroc - 0.5).abs() >= ANSWERS - 0.5).float().sum(1)

    def best(self, unit: int) -> tuple[str, float]:
        """The concept that a unit separates best, and its AUROC."""
        concept = int((self.auroc[unit] - 0.5).abs().argmax())
        return self.concepts[concept], self.auroc[unit, concept].item()

    def __str__(self) -> str:
        alive = self.alive
        effective, answers = self.effective[alive], self.answers[alive]
        low, middle, high = effective.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        return (
            f"{self.name}: {int(alive.sum())} of {len(alive)} units on {self.n_tokens:,} tokens, "
            f"{len(self.concepts)} concepts\n"
            f"  effective number of concepts {middle:.1f} (quartiles {low:.1f} to {high:.1f}; active everywhere alike: "
            f"{self.corpus:.1f})\n"
            f"  {(answers == 1).float().mean():.0%} of units answer to one concept, {(answers > 1).float().mean():.0%} "
            "to several"
        )


@dataclass(frozen=True)
class SelectivityComparison:
    """Two kinds of unit on the same tokens."""

    first: Selectivity
    second: Selectivity
    exceeds: float
    """The probability that a random unit of the first has a higher effective number of concepts than one of the second,
    ties counting half."""
    p_value: float
    """Of the two-sided Mann–Whitney test."""

    def __str__(self) -> str:
        chance = f"one of {self.first.name} is spread over more concepts than one of {self.second.name}"
        p = f"p = {self.p_value:.1g}" if self.p_value else "p < 1e-300"
        return f"{self.first}\n{self.second}\nIn {self.exceeds:.1%} of pairs {chance} ({p})"


@torch.no_grad()
def selectivity(
    name: str,
    activations: Float[Tensor, "token unit"],
    labels: Bool[Tensor, "token concept"],
    concepts: Sequence[str],
) -> Selectivity:
    """Measure every unit, a block of units at a time. Raises `SettingError` if no concept is on enough tokens."""
    n_with = labels.sum(0)
    common = (n_with >= RARE) & (len(labels) - n_with >= RARE)
    if not common.any():
        raise SettingError(
            f"none of {len(concepts)} concepts is on at least {RARE} of {len(labels)} tokens, and off others"
        )
    shares = torch.cat([labels, ~labels.any(1, keepdim=True)], 1).float()
    shares = shares / shares.sum(1, keepdim=True)
    kept = labels[:, common].double()
    step = max(1, ENTRIES // len(labels))
    columns = [_measure(part.float(), shares, kept) for part in activations.split(step, dim=1)]
    effective, auroc = (torch.cat(column) for column in zip(*columns, strict=True))
    return Selectivity(
        name=name,
        concepts=tuple(concept for concept, is_common in zip(concepts, common.tolist(), strict=True) if is_common),
        effective=effective.cpu(),
        auroc=auroc.cpu(),
        corpus=_effective(shares.mean(0, keepdim=True)).item(),
        n_tokens=len(labels),
    )


def _measure(
    a: Float[Tensor, "token unit"], shares: Float[Tensor, "token part"], labels: Float[Tensor, "token concept"]
) -> tuple[Float[Tensor, " unit"], Float[Tensor, "unit concept"]]:
    energy = a.square().T @ shares.to(a.device)
    rare = (a != 0).sum(0) < RARE
    ranks = torch.from_numpy(rankdata(a.cpu().numpy(), axis=0))
    n = labels.sum(0).cpu()
    above = ranks.T @ labels.cpu() - n * (n + 1) / 2  # pairs in which the token with the concept is higher
    auroc = (above / (n * (len(labels) - n))).float()
    auroc[rare.cpu()] = 0.5
    return _effective(energy).masked_fill(rare, torch.nan), auroc


def _effective(energy: Float[Tensor, "unit part"]) -> Float[Tensor, " unit"]:
    p = energy / energy.sum(1, keepdim=True).clamp_min(1e-30)
    return torch.special.entr(p).sum(1).exp()


def compare(first: Selectivity, second: Selectivity) -> SelectivityComparison:
    """Which of two kinds of unit, measured on the same tokens, is spread over more concepts."""
    mine, theirs = (one.effective[one.alive].numpy() for one in (first, second))
    if not len(mine) or not len(theirs):
        raise SettingError("one of the two has no unit that is active on enough tokens")
    test = mannwhitneyu(mine, theirs)
    return SelectivityComparison(first, second, float(test.statistic) / (len(mine) * len(theirs)), float(test.pvalue))
