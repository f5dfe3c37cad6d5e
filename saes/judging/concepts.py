"""An SAE against known concepts: which it has a latent for, which it splits, and where one absorbs another.

A latent *detects* a concept at a threshold: on the tokens where its activation is above 0 and at least t/8 (t = 0…7) of
a scale, which is its largest activation in the first batch. Of each concept's tokens and each latent's, detection is
judged by F1 = 2 hits / (detected + labelled).

*Main latent* of a concept: the latent, with its threshold, of the best F1 on the first half of the tokens. All figures
below are measured on the second half.

*Implication* (child => parent): on the first half every token with the child has the parent; both the child, and the
parent without the child, are on at least 30 tokens. It is read off the labels, whatever language they come from.

*Absorption* of a child by latent b from the parent's main latent a: the share of the child's tokens on which a does
not detect, and b does, where b is the child's best latent other than a. It is 0 unless b also writes in a's direction:
the cosine of their decoder rows is above 2 / sqrt(d_in), twice the spread of random directions' cosines; and it is
undefined (NaN) unless a detects at least half of the parent's tokens outside the child: otherwise there is no parent
latent with a hole in it. After Chanin et al. 2024, "A is for absorption" (arXiv:2409.14507), which must find the
parent's tokens by a probe, and the absorbing latents by ablation.

*Splitting* of a concept: the number of latents that it takes. Candidates are the latents with a precision of at least
0.8 at some threshold (of such, that with the most hits): the eight with the most hits, in order of hits. The concept is
"some candidate so far detects", and a candidate counts if it raises the best F1 so far by more than 0.03. 0 where no
latent is precise enough. After the same paper's k-sparse feature splitting, which has the same step of 0.03.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEVELS = 8
"""Thresholds tried for each latent."""
COVERED = 0.8
"""The F1 at which a concept counts as covered."""
PRECISE = 0.8
CANDIDATES = 8
STEP = 0.03
RARE = 20
"""A concept on fewer tokens of either half is left out."""
IMPLIES = 30
"""Tokens that each side of an implication must be on."""


@dataclass(frozen=True)
class ConceptResult:
    """A concept and its main latent."""

    concept: str
    latent: int
    f1: float
    precision: float
    recall: float
    splits: int
    """Latents that it is split into; see the module."""


@dataclass(frozen=True)
class Implication:
    """A child concept, the parent that it implies, and what became of the parent's main latent."""

    child: str
    parent: str
    absorption: float
    """NaN where undefined; see the module."""
    recall_inside: float
    """Of the parent's main latent, on the child's tokens; `recall_outside`: on the parent's without the child."""
    recall_outside: float


@dataclass(frozen=True)
class ConceptReport:
    """An SAE against all concepts that occur."""

    concepts: list[ConceptResult]
    """Best F1 first."""
    implications: list[Implication]

    @property
    def coverage(self) -> float:
        """Share of concepts whose main latent has F1 >= 0.8."""
        return _mean([result.f1 >= COVERED for result in self.concepts])

    @property
    def mean_f1(self) -> float:
        """Mean F1 of the main latents."""
        return _mean([result.f1 for result in self.concepts])

    @property
    def absorption(self) -> float:
        """Mean over implications where it is defined."""
        return _mean([one.absorption for one in self.implications if not math.isnan(one.absorption)])

    @property
    def splits(self) -> float:
        """Mean number of latents over the parents of implications that have a precise latent at all."""
        parents = {one.parent for one in self.implications}
        return _mean([result.splits for result in self.concepts if result.concept in parents and result.splits])

    def to_dict(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("coverage", "mean_f1", "absorption", "splits")}
        lists = {"concepts": self.concepts, "implications": self.implications}
        return figures | {name: [dict(vars(one)) for one in group] for name, group in lists.items()}

    def rows(self) -> list[tuple[str, str, str]]:
        covered = sum(result.f1 >= COVERED for result in self.concepts)
        defined = sum(not math.isnan(one.absorption) for one in self.implications)
        return [
            ("concepts covered", f"{self.coverage:.2%}", f"{covered} of {len(self.concepts)} at F1 >= {COVERED:g}"),
            ("mean best F1", f"{self.mean_f1:.4f}", ""),
            ("absorption", _known(self.absorption, ".2%"), f"of {defined} implied pairs with a parent latent"),
            ("latents per parent concept", _known(self.splits, ".2f"), "1 is unsplit"),
        ]


@dataclass(frozen=True)
class Detectors:
    """Latents, each with the threshold at which it detects."""

    latent: Int[Tensor, "*shape"]
    level: Int[Tensor, "*shape"]

    def __getitem__(self, index: Tensor) -> "Detectors":
        return Detectors(self.latent[index], self.level[index])

    def where(self, condition: Bool[Tensor, "*shape"], other: "Detectors") -> "Detectors":
        """These where the condition holds, the other's elsewhere."""
        pairs = ((self.latent, other.latent), (self.level, other.level))
        return Detectors(*(torch.where(condition, mine, theirs) for mine, theirs in pairs))


@dataclass(frozen=True)
class Choice:
    """What the first half decides."""

    main: Detectors
    """[concept]"""
    candidates: Detectors
    """[concept, candidate]; see Splitting."""
    precise: Bool[Tensor, "concept candidate"]
    """Whether a candidate is one."""
    child: Int[Tensor, " implication"]
    parent: Int[Tensor, " implication"]
    absorber: Detectors
    """[implication] the child's best latent other than the parent's main latent."""
    aligned: Bool[Tensor, " implication"]
    """Whether the absorber writes in the main latent's direction."""


class ConceptJudge:
    """Feed it the first half through `choose`, then the second through `measure`."""

    def __init__(self, W_dec: Float[Tensor, "d_sae d_in"], concepts: tuple[str, ...]):
        self.W_dec, self.concepts = W_dec, concepts
        d_sae, n, device = len(W_dec), len(concepts), W_dec.device
        self.scale: Tensor | None = None
        self.hits = torch.zeros(d_sae * LEVELS, n, device=device)
        self.detected = torch.zeros(d_sae * LEVELS, dtype=torch.int64, device=device)
        self.together = torch.zeros(n, n, device=device)
        self.choice: Choice | None = None
        self.counts: dict[str, Tensor] = {}

    def choose(self, latents: Float[Tensor, "row d_sae"], labels: Bool[Tensor, "row concept"]) -> None:
        if self.scale is None:
            self.scale = latents.amax(0).float()
        row, latent = (latents > 0).nonzero(as_tuple=True)
        reached = LEVELS * latents[row, latent] / self.scale[latent].clamp_min(1e-30)
        level = torch.where(self.scale[latent] > 0, reached.clamp(max=LEVELS - 1), 0).long()
        cell = latent * LEVELS + level
        labels = labels.float()
        self.hits.index_add_(0, cell, labels[row])
        self.detected += cell.bincount(minlength=len(self.detected))
        self.together += labels.T @ labels

    def measure(self, latents: Float[Tensor, "row d_sae"], labels: Bool[Tensor, "row concept"]) -> None:
        choice = self.choice = self.choice or self._decide()
        main = self._detects(latents, choice.main)
        union = (self._detects(latents, choice.candidates) & choice.precise).cummax(2).values
        of_parent, child = main[:, choice.parent], labels[:, choice.child]
        outside = labels[:, choice.parent] & ~child
        tallies = {
            "labelled": labels,
            "main": main,
            "main_hits": main & labels,
            "union": union,
            "union_hits": union & labels[..., None],
            "child": child,
            "child_hits": child & of_parent,
            "absorbed": child & ~of_parent & self._detects(latents, choice.absorber) & choice.aligned,
            "outside": outside,
            "outside_hits": outside & of_parent,
        }
        for name, happened in tallies.items():
            self.counts[name] = self.counts.get(name, 0) + happened.sum(0)

    def report(self) -> ConceptReport:
        n = {name: count.cpu().double() for name, count in self.counts.items()}
        f1 = 2 * n["main_hits"] / (n["main"] + n["labelled"]).clamp_min(1)
        precision, recall = n["main_hits"] / n["main"].clamp_min(1), n["main_hits"] / n["labelled"].clamp_min(1)
        splits = _steps(2 * n["union_hits"] / (n["union"] + n["labelled"][:, None]).clamp_min(1))
        common = (self.together.diagonal().cpu() >= RARE) & (n["labelled"] >= RARE)
        columns = (self.choice.main.latent, f1, precision, recall, splits)
        rows = zip(self.concepts, common.tolist(), *(column.tolist() for column in columns), strict=True)
        results = [ConceptResult(concept, *figures) for concept, occurs, *figures in rows if occurs]
        return ConceptReport(sorted(results, key=lambda result: -result.f1), self._implications(n))

    def _implications(self, n: dict[str, Tensor]) -> list[Implication]:
        child, outside = n["child"].clamp_min(1), n["outside_hits"] / n["outside"].clamp_min(1)
        absorption = torch.where((outside >= 0.5) & (n["child"] > 0), n["absorbed"] / child, math.nan)
        figures = (absorption.tolist(), (n["child_hits"] / child).tolist(), outside.tolist())
        pairs = zip(self.choice.child.tolist(), self.choice.parent.tolist(), *figures, strict=True)
        return [Implication(self.concepts[child], self.concepts[parent], *rest) for child, parent, *rest in pairs]

    def _decide(self) -> Choice:
        d_sae, n = len(self.W_dec), len(self.concepts)
        hits = _from_above(self.hits.view(d_sae, LEVELS, n))
        detected = _from_above(self.detected.view(d_sae, LEVELS, 1))
        labelled = self.together.diagonal()
        f1, level = (2 * hits / (detected + labelled).clamp_min(1)).max(1)
        first, *others = f1.topk(min(2, d_sae), dim=0).indices
        concept = torch.arange(n, device=first.device)
        main = Detectors(first, level[first, concept])
        second = Detectors(others[-1], level[others[-1], concept]) if others else main

        precise = (hits >= PRECISE * detected) & (hits > 0)
        precise_hits, precise_level = (hits * precise).max(1)
        top = precise_hits.topk(min(CANDIDATES, d_sae), dim=0)
        candidates = Detectors(top.indices.T, precise_level.gather(0, top.indices).T)

        implies = (self.together == labelled[:, None]) & (labelled[:, None] >= IMPLIES)
        child, parent = (implies & (labelled - labelled[:, None] >= IMPLIES)).nonzero(as_tuple=True)
        absorber = main[child].where(first[child] != first[parent], second[child])
        directions = torch.nn.functional.normalize(self.W_dec, dim=1)
        cosine = (directions[first[parent]] * directions[absorber.latent]).sum(1)
        aligned = (cosine > 2 / self.W_dec.shape[1] ** 0.5) & (absorber.latent != first[parent])
        return Choice(main, candidates, top.values.T > 0, child, parent, absorber, aligned)

    def _detects(self, latents: Float[Tensor, "row d_sae"], detectors: Detectors) -> Bool[Tensor, "row *shape"]:
        activation = latents[:, detectors.latent]
        return (activation > 0) & (activation * LEVELS >= self.scale[detectors.latent] * detectors.level)


def _from_above(counts: Tensor) -> Tensor:
    """[latent, level, …] counts in a level, as counts in it or above."""
    return counts.flip(1).cumsum(1).flip(1)


def _steps(f1: Float[Tensor, "concept candidate"]) -> Int[Tensor, " concept"]:
    """How many candidates raise the best F1 so far by more than `STEP`."""
    best = torch.zeros(len(f1), dtype=f1.dtype)
    steps = torch.zeros(len(f1), dtype=torch.int64)
    for column in f1.T:
        steps += column - best > STEP
        best = torch.maximum(best, column)
    return steps


def _known(value: float, form: str) -> str:
    return "n/a" if math.isnan(value) else format(value, form)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
