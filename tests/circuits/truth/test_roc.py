"""Areas under the curve: by hand, against scikit-learn, and the published values of the staircase."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from circuits.graph import transformer_graph
from circuits.truth.roc import Roc, roc_of_circuits, roc_of_scores
from workbench.errors import SettingError

GRAPH = transformer_graph(1, 1)
"""Eight edges: input to q, k, v, m0 and logits; a0.h0 to m0 and logits; m0 to logits."""
NAMES = GRAPH.names(GRAPH.edges)


def scores(values):
    tensor = torch.zeros(GRAPH.edges.shape)
    tensor[GRAPH.edges] = torch.tensor(values)
    return tensor


def test_areas_worked_out_by_hand():
    truth = frozenset(NAMES[:2])
    best = roc_of_scores(GRAPH, scores([8.0, 7, 6, 5, 4, 3, 2, 1]), truth)
    assert (best.auroc, best.pessimistic) == (1, 1)
    worst = roc_of_scores(GRAPH, scores([1.0, 2, 3, 4, 5, 6, 7, 8]), truth)
    assert (worst.auroc, worst.pessimistic) == (0, 0)
    # one true edge first, then all the others, then the second true edge
    half = roc_of_scores(GRAPH, scores([3.0, 1, 2, 2, 2, 2, 2, 2]), truth)
    assert (half.auroc, half.pessimistic) == (0.5, 0.5)
    # the first true edge is tied with three others: half of them count, but the staircase has them all
    tied = roc_of_scores(GRAPH, scores([2.0, 1, 2, 2, 2, 0, 0, 0]), truth)
    assert tied.auroc == pytest.approx((0.5 * 3 / 6 + 3 / 6 + 3 / 6) / 2)
    assert tied.pessimistic == pytest.approx(0.5 * 3 / 6 + 0.5 * 3 / 6)


def test_scores_that_are_all_alike_know_nothing():
    alike = roc_of_scores(GRAPH, scores([0.0] * 8), frozenset(NAMES[:3]))
    assert (alike.auroc, alike.pessimistic) == (0.5, 0)
    assert alike.fpr.tolist() == [0, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_that_of_scikit_learn_ties_included(seed):
    graph = transformer_graph(2, 3)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-4, 5, graph.edges.shape, generator=generator).float()
    true = graph.edges & (torch.rand(graph.edges.shape, generator=generator) < 0.3)
    roc = roc_of_scores(graph, values, frozenset(graph.names(true)))
    expected = roc_auc_score(true[graph.edges].numpy(), values[graph.edges].numpy())
    assert roc.auroc == pytest.approx(expected, abs=1e-12)
    assert roc.pessimistic < roc.auroc


@pytest.mark.parametrize(
    ("fpr", "tpr", "area"),
    [
        ([0, 1], [0, 1], 0),
        ([0, 0.5, 1], [0, 0.5, 1], 0.25),
        ([0, 0.25, 1], [0, 0.25, 1], 3 / 16),
        ([0, 0.25, 0.5, 1], [0, 0.25, 0.5, 1], 5 / 16),
        ([0, 0.25, 0.75, 1], [0, 0.25, 0.5, 1], 4 / 16),
    ],
)
def test_the_staircase_has_the_areas_that_acdc_asserts(fpr, tpr, area):
    roc = Roc(torch.tensor(fpr, dtype=torch.float64), torch.tensor(tpr, dtype=torch.float64), 4, 4)
    assert roc.pessimistic == pytest.approx(area)


def test_circuits_are_points_and_the_dominated_ones_are_left_out():
    truth = frozenset(NAMES[:4])
    found = [GRAPH.subset(NAMES[first:last]) for first, last in ((0, 2), (0, 4), (3, 7), (0, 8), (0, 0))]
    roc = roc_of_circuits(GRAPH, found, truth)
    assert list(zip(roc.fpr.tolist(), roc.tpr.tolist(), strict=True)) == [
        (0, 0),
        (0, 0),
        (0, 0.5),
        (0, 1),
        (1, 1),
        (1, 1),
    ]
    assert (roc.auroc, roc.pessimistic) == (1, 1)
    lonely = roc_of_circuits(GRAPH, [GRAPH.subset([NAMES[0], NAMES[1], NAMES[4]])], truth)
    assert lonely.pessimistic == pytest.approx(0.75 * 0.5)
    assert lonely.auroc == pytest.approx(0.25 * 0.5 / 2 + 0.75 * 0.75)
    assert roc_of_circuits(GRAPH, [], truth).pessimistic == 0


def test_a_truth_of_nothing_or_of_everything_is_refused():
    for truth in (frozenset(), frozenset(NAMES)):
        with pytest.raises(SettingError, match="needs true edges and others"):
            roc_of_scores(GRAPH, scores([0.0] * 8), truth)
    with pytest.raises(SettingError, match="no edge 'm0->a0"):
        roc_of_scores(GRAPH, scores([0.0] * 8), frozenset(["m0->a0.h0<q>"]))
    assert "AUROC 1.000, pessimistic AUC 1.000" in str(
        roc_of_scores(GRAPH, scores([1.0] + [0.0] * 7), frozenset(NAMES[:1]))
    )
