"""How well scores, or circuits of several sizes, tell true edges from the rest.

Two areas that are not to be compared with each other. *AUROC*: under the curve through the points, joined by straight
lines, that is, the chance that a true edge scores higher than another, ties counting half. *Pessimistic* (Conmy et al.
2023, arXiv:2304.14997, appendix): under the staircase that rises only where a point has been reached; without any point
between (0, 0) and (1, 1) it is zero, where AUROC is a half.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.graph import Edges, Graph
from circuits.truth.edges import EdgeNames
from workbench.errors import SettingError


@dataclass(frozen=True, eq=False)
class Roc:
    """Shares of the other edges (`fpr`) and of the true edges (`tpr`) that were found, from (0, 0) to (1, 1)."""

    fpr: Float[Tensor, " point"]
    tpr: Float[Tensor, " point"]
    n_true: int
    n_other: int

    @property
    def auroc(self) -> float:
        return float(torch.trapezoid(self.tpr, self.fpr))

    @property
    def pessimistic(self) -> float:
        return float(((1 - self.fpr[1:]) * self.tpr.diff()).sum())

    def __str__(self) -> str:
        counts = f"{self.n_true} true edges among {self.n_true + self.n_other}"
        return f"{counts}: AUROC {self.auroc:.3f}, pessimistic AUC {self.pessimistic:.3f}"


def roc_of_scores(graph: Graph, scores: Float[Tensor, "destination source"], truth: EdgeNames) -> Roc:
    """The curve as edges are taken in by falling score; those of one score come in together.

    Raises `SettingError` for a truth that names no edge, all of them, or one that the graph has not.
    """
    positive = graph.subset(truth)
    counts = torch.stack([graph.edges & ~positive, positive])
    levels, level = scores[graph.edges].unique(return_inverse=True)
    of_level = torch.zeros(2, len(levels), dtype=torch.float64)
    of_level.index_add_(1, level, counts[:, graph.edges].double())
    return _curve(of_level.flip(1).cumsum(1), positive, graph)


def roc_of_circuits(graph: Graph, circuits: Iterable[Edges], truth: EdgeNames) -> Roc:
    """The curve through one point for each circuit, as of ACDC at several thresholds.

    A circuit that finds fewer true edges than another does with fewer false ones is left out, as in Conmy et al.'s own
    evaluation. Raises as `roc_of_scores` does.
    """
    positive = graph.subset(truth)
    points = {(int((edges & ~positive).sum()), int((edges & positive).sum())) for edges in circuits}
    kept = [(x, y) for x, y in sorted(points) if not any(other_x < x and other_y > y for other_x, other_y in points)]
    return _curve(torch.tensor(kept, dtype=torch.float64).reshape(-1, 2).T, positive, graph)


def _curve(counts: Float[Tensor, "2 point"], positive: Edges, graph: Graph) -> Roc:
    """From counts of other and of true edges."""
    n_true = int(positive.sum())
    n_other = graph.n_edges - n_true
    if not n_true or not n_other:
        raise SettingError(f"{n_true} of {graph.n_edges} edges are true; a curve needs true edges and others")
    zero = torch.zeros(2, 1, dtype=torch.float64)
    shares = counts / torch.tensor([[n_other], [n_true]], dtype=torch.float64)
    fpr, tpr = torch.cat([zero, shares, zero + 1], dim=1)
    return Roc(fpr, tpr, n_true, n_other)
