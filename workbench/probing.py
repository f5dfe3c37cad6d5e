"""Linear probes: which concepts can be read off the activations by a plane, and where in the model.

A probe is a ridge regression of a yes/no label on standardised activations, which for two classes has the direction of
linear discriminant analysis. It has a closed form whose costly part, the covariance, all concepts share: probing for
fifty concepts costs hardly more than for one.

Every figure is measured out of fold, and no document is on both sides: the tokens of one are far from independent.

* AUROC: the chance that a random token with the concept scores higher than a random one without. No threshold, and no
  matter how rare the concept is.
* F1 and balanced accuracy (the mean of the recalls on both sides) at the threshold that is best on the other folds.
* Control: the same probe for a label that says nothing, drawn for each type of word at random such that as many tokens
  have it (Hewitt & Liang 2019, arXiv:1909.03368, §2). Selectivity is the F1 less the control's: what a probe reads
  beyond what it could learn by heart. Where rows are whole texts, every row is a type of its own.

A concept counts as *linearly readable* at a site if its AUROC there is at least `READABLE`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from workbench.directions import Direction
from workbench.errors import CorpusError, SettingError, UnknownSite, suggestion
from workbench.files import write_json
from workbench.probe_data import ProbeData

READABLE = 0.95
FOLDS = 5
RIDGE = 1e-3
"""Penalty on the weights of standardised activations, for each row; large enough to invert a covariance of low rank."""
CONSTANT = 1e-10
"""A dimension with less variance than this, relative to the most, is constant but for rounding, and gets no weight."""
THRESHOLDS = 512
"""Thresholds that are tried, evenly spaced over the scores."""


@dataclass(frozen=True, eq=False)
class Probes:
    """Probes for every concept at every site. Prints each concept at the site where it is read best."""

    sites: tuple[str, ...]
    concepts: tuple[str, ...]
    skipped: tuple[str, ...]
    """Concepts in fewer documents than there are folds, or outside fewer."""
    n_rows: int
    n_documents: int
    n_positive: Int[Tensor, " concept"]
    auroc: Float[Tensor, "site concept"]
    balanced_accuracy: Float[Tensor, "site concept"]
    f1: Float[Tensor, "site concept"]
    control_auroc: Float[Tensor, "site concept"]
    control_f1: Float[Tensor, "site concept"]
    vectors: dict[str, Float[Tensor, "concept _"]]
    """By site: normals of the probes fitted on all rows, in the unit of `workbench.directions`."""
    starts: Float[Tensor, "site concept"]
    norms: tuple[float, ...]
    """Typical length of an activation, by site."""
    model: str
    source: str

    @property
    def selectivity(self) -> Float[Tensor, "site concept"]:
        return self.f1 - self.control_f1

    @property
    def best(self) -> Int[Tensor, " concept"]:
        """The number of the site where each concept's AUROC is highest."""
        return self.auroc.argmax(0)

    @property
    def readable(self) -> Bool[Tensor, " concept"]:
        """Whether each concept is linearly readable at some site."""
        return self.auroc.amax(0) >= READABLE

    def direction(self, concept: str, site: str | None = None) -> Direction:
        """A probe's normal, to steer with; by default where the concept is read best."""
        if concept not in self.concepts:
            raise SettingError(f"there is no probe for {concept!r}{suggestion(concept, self.concepts)}")
        column = self.concepts.index(concept)
        if site is not None and site not in self.sites:
            raise UnknownSite(f"nothing was probed at {site!r}{suggestion(site, self.sites)}")
        row = self.sites.index(site) if site is not None else int(self.best[column])
        name, vector = self.sites[row], self.vectors[self.sites[row]][column]
        positive = int(self.n_positive[column])
        source = {"corpus": self.source, "n": [positive, self.n_rows - positive]}
        start = self.starts[row, column].item()
        return Direction(concept, vector, name, "probe", self.model, self.norms[row], start, source)

    def cosines(self, site: str) -> Float[Tensor, "concept concept"]:
        """Cosines of the probes' directions at a site."""
        unit = torch.nn.functional.normalize(self.vectors[site], dim=1)
        return unit @ unit.T

    def to_dict(self) -> dict[str, Any]:
        left_out = ("vectors", "starts", "norms")
        facts = {name: value for name, value in vars(self).items() if name not in left_out}
        facts |= {"selectivity": self.selectivity, "readable": self.readable}
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in facts.items()}

    def save(self, directory: str | Path) -> None:
        """Write `probes.json`, and the best direction of every concept as `CONCEPT.safetensors`."""
        for concept in self.concepts:
            name = re.sub(r"[^\w-]+", "_", concept)
            self.direction(concept).save(Path(directory) / f"{name}.safetensors")
        write_json(Path(directory) / "probes.json", self.to_dict())

    def __str__(self) -> str:
        columns = range(len(self.concepts))
        order = sorted(columns, key=lambda column: -self.auroc[self.best[column], column].item())
        width = max(map(len, self.concepts), default=0)
        lines = [
            f"{int(self.readable.sum())} of {len(columns)} concepts are linearly readable somewhere "
            f"(AUROC ≥ {READABLE:g}); {int((self.f1.amax(0) >= 0.8).sum())} have F1 ≥ 0.8",
            f"{self.n_rows:,} rows of {self.n_documents:,} documents of {self.source}; all out of fold, by document",
            "",
            f"  {'':<{width}}   AUROC  balanced    F1  control  selectivity  positive  read best at",
        ]
        for column in order:
            at = (int(self.best[column]), column)
            cells = f"{self.auroc[at]:.3f}     {self.balanced_accuracy[at]:.3f}  {self.f1[at]:.2f}     "
            cells += f"{self.control_f1[at]:.2f}        {self.selectivity[at]:+.2f}  {int(self.n_positive[column]):>8,}"
            lines.append(f"  {self.concepts[column]:<{width}}   {cells}  {self.sites[at[0]]}")
        if self.skipped:
            lines.append(f"  too rare to probe for: {', '.join(self.skipped)}")
        return "\n".join(lines)


def probe(data: ProbeData, *, folds: int = FOLDS, ridge: float = RIDGE, seed: int = 0) -> Probes:
    """Probe for every concept at every site; `seed` divides the documents and draws the control labels.

    Raises `CorpusError` if every concept is too rare: in fewer documents than `folds`, or outside fewer.
    """
    frequent = _frequent(data, folds)
    skipped = tuple(name for name, kept in zip(data.concepts, frequent.tolist(), strict=True) if not kept)
    if not frequent.any():
        raise CorpusError(f"no label is in {folds} documents of {data.source} and outside {folds}; give more text")
    truth = data.labels[:, frequent]
    control = control_labels(data.types, truth.sum(0), seed)
    labels = torch.cat([truth, control], dim=1)
    fold = fold_of(data.documents, folds, seed)
    n = truth.shape[1]
    found: dict[str, list[Tensor]] = {}
    vectors = {}
    for site, rows in data.activations.items():
        scores, weight = _fit(rows, labels, fold, folds, ridge)
        area = auroc(scores, labels)
        balanced, f1 = _at_thresholds(scores, labels, fold, folds)
        vectors[site], starts = _in_unit(rows, truth, weight[:, :n].T)
        values = {"auroc": area[:n], "balanced_accuracy": balanced[:n], "f1": f1[:n], "starts": starts}
        for name, value in (values | {"control_auroc": area[n:], "control_f1": f1[n:]}).items():
            found.setdefault(name, []).append(value.float())
    return Probes(
        sites=tuple(data.activations),
        concepts=tuple(name for name in data.concepts if name not in skipped),
        skipped=skipped,
        n_rows=len(labels),
        n_documents=len(data.documents.unique()),
        n_positive=truth.sum(0),
        vectors=vectors,
        norms=tuple(rows.norm(dim=1).mean().item() for rows in data.activations.values()),
        model=data.model,
        source=data.source,
        **{name: torch.stack(values) for name, values in found.items()},
    )


def _frequent(data: ProbeData, folds: int) -> Bool[Tensor, " concept"]:
    _, document = data.documents.unique(return_inverse=True)
    counts = torch.zeros(2, int(document.max()) + 1, data.labels.shape[1])
    counts[0].index_add_(0, document, data.labels.float())
    counts[1].index_add_(0, document, (~data.labels).float())
    return ((counts > 0).sum(1) >= folds).all(0)


def fold_of(documents: Int[Tensor, " row"], folds: int, seed: int) -> Int[Tensor, " row"]:
    """The fold of each row, with documents whole, and as equal in size as they allow."""
    from sklearn.model_selection import GroupKFold

    fold = np.zeros(len(documents), np.int64)
    parts = GroupKFold(folds, shuffle=True, random_state=seed).split(fold, groups=documents.numpy())
    for number, (_, test) in enumerate(parts):
        fold[test] = number
    return torch.from_numpy(fold)


def control_labels(
    types: Int[Tensor, " row"], counts: Int[Tensor, " concept"], seed: int
) -> Bool[Tensor, "row concept"]:
    """For each concept a random set of types that covers as many rows as it does, as nearly as a greedy draw comes."""
    _, kind = types.unique(return_inverse=True)
    sizes = kind.bincount().tolist()
    chosen = torch.zeros(len(sizes), len(counts), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for column, left in enumerate(counts.tolist()):
        for number in torch.randperm(len(sizes), generator=generator).tolist():
            if sizes[number] <= left:
                chosen[number, column] = True
                left -= sizes[number]
    return chosen[kind]


def _fit(
    rows: Float[Tensor, "row d"],
    labels: Bool[Tensor, "row column"],
    fold: Int[Tensor, " row"],
    folds: int,
    ridge: float,
) -> tuple[Float64[Tensor, "row column"], Float64[Tensor, "d column"]]:
    """Scores of each row by the probes of the other folds, and the weights of the probes of all rows.

    A training set's moments are those of all rows less those of the fold, so every row is multiplied out once.
    """
    centre = rows.double().mean(0)
    inside = [fold == number for number in range(folds)]
    parts = [_moments(rows[mine].double() - centre, labels[mine].double()) for mine in inside]
    total = [sum(column) for column in zip(*parts, strict=True)]
    scores = torch.empty(labels.shape, dtype=torch.float64)
    for mine, part in zip(inside, parts, strict=True):
        weight, bias = _solve([whole - own for whole, own in zip(total, part, strict=True)], ridge)
        scores[mine] = (rows[mine].double() - centre) @ weight + bias
    return scores, _solve(total, ridge)[0]


def _moments(x: Float64[Tensor, "row d"], y: Float64[Tensor, "row column"]) -> tuple[Tensor, ...]:
    return torch.tensor(len(x)), x.sum(0), y.sum(0), x.T @ x, x.T @ y


def _solve(moments: Sequence[Tensor], ridge: float) -> tuple[Float64[Tensor, "d column"], Float64[Tensor, " column"]]:
    """Ridge regression on standardised inputs, with a bias, in the inputs' own units."""
    n, x, y, xx, xy = moments
    x, y = x / n, y / n
    covariance, cross = xx / n - torch.outer(x, x), xy / n - torch.outer(x, y)
    variance = covariance.diagonal()
    spread = torch.where(variance > CONSTANT * variance.max(), variance, torch.inf).sqrt()
    standard = covariance / torch.outer(spread, spread) + ridge * torch.eye(len(spread), dtype=torch.float64)
    weight = torch.cholesky_solve(cross / spread[:, None], torch.linalg.cholesky(standard)) / spread[:, None]
    return weight, y - x @ weight


def auroc(scores: Float64[Tensor, "row column"], labels: Bool[Tensor, "row column"]) -> Float64[Tensor, " column"]:
    """Area under the ROC curve of each column, ties counted half (Mann–Whitney U). NaN without rows of both kinds."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(scores.numpy(), axis=0))
    positive = labels.sum(0).double()
    above = (ranks * labels).sum(0) - positive * (positive + 1) / 2
    return above / (positive * (len(labels) - positive))


def _at_thresholds(
    scores: Float64[Tensor, "row column"], labels: Bool[Tensor, "row column"], fold: Int[Tensor, " row"], folds: int
) -> tuple[Float[Tensor, " column"], Float[Tensor, " column"]]:
    """Balanced accuracy and F1 with each fold judged at the threshold that is best on the others."""
    low, high = scores.amin(0), scores.amax(0)
    level = ((scores - low) / (high - low).clamp_min(1e-30) * (THRESHOLDS - 1)).long()
    n = labels.shape[1]
    cell = ((fold[:, None] * 2 + labels) * THRESHOLDS + level) * n + torch.arange(n)
    counts = cell.flatten().bincount(minlength=folds * 2 * THRESHOLDS * n).view(folds, 2, THRESHOLDS, n).double()
    called = counts.flip(2).cumsum(2).flip(2)  # [fold, label, threshold, column] rows at or above each threshold
    everything = counts.sum(2, keepdim=True)
    others, all_others = called.sum(0) - called, everything.sum(0) - everything

    def accuracy(called: Tensor, of: Tensor) -> Tensor:
        recall = called / of.clamp_min(1)
        return (recall[..., 1, :, :] + 1 - recall[..., 0, :, :]) / 2

    def f1(called: Tensor, of: Tensor) -> Tensor:
        return 2 * called[..., 1, :, :] / (called.sum(-3) + of[..., 1, :, :]).clamp_min(1)

    def judged(measure) -> Tensor:
        best = measure(others, all_others).argmax(1)  # [fold, column]
        index = best[:, None, None].expand(folds, 2, 1, n)
        return measure(called.gather(2, index).sum(0), everything.sum(0))[0]

    return judged(accuracy), judged(f1)


def _in_unit(
    rows: Float[Tensor, "row d"], labels: Bool[Tensor, "row concept"], normals: Float64[Tensor, "concept d"]
) -> tuple[Float[Tensor, "concept d"], Float[Tensor, " concept"]]:
    """Normals scaled to the distance between both kinds' means along them, and where the negatives' mean lies."""
    unit = torch.nn.functional.normalize(normals, dim=1).float()
    along = rows @ unit.T
    positive = labels.sum(0)
    of_positive = (along * labels).sum(0) / positive
    of_negative = (along * ~labels).sum(0) / (len(rows) - positive)
    return (of_positive - of_negative)[:, None] * unit, of_negative
