"""What every method must find on the OR gate, the micro-model and the compiled programs."""

import pytest
import torch

from circuits.ablations import RESAMPLE, ZERO
from circuits.acdc import acdc
from circuits.experiment import Experiment
from circuits.methods import THRESHOLDS, acdc_scores
from circuits.scores.eap import eap
from circuits.scores.exact import exact_effects
from circuits.scores.ig import eap_ig_inputs
from circuits.scores.masks import mask_gradient
from circuits.truth.known import known_circuit
from circuits.truth.roc import roc_of_circuits, roc_of_scores
from workbench.metrics import L2


@pytest.fixture(params=[ZERO, RESAMPLE], ids=lambda ablation: ablation.name)
def gate(request):
    known = known_circuit("or_gate")
    return Experiment(known.model, known.pairs, ablation=request.param)


HEADS = ("a0.h0->m0", "a0.h1->m0")


def of_heads(experiment, scores):
    return [scores.values[experiment.graph.edge(name)].item() for name in HEADS]


def test_or_gate_single_effects_are_nothing_and_both_together_everything(gate):
    assert of_heads(gate, exact_effects(gate)) == pytest.approx([0, 0])
    without = [gate.graph.edges & ~gate.graph.subset(names) for names in (HEADS[:1], HEADS[1:], HEADS)]
    assert gate.values(torch.stack(without))[:, 0].tolist() == pytest.approx([1, 1, 0])


def test_or_gate_gradients(gate):
    """On the way of the inputs the sum is 2α, so the gradient is 1 up to α = ½; on that of all gates it is 2α².

    A head's gate is then worth α (of the head's own input) times α (of the MLP's way out) up to α = √½.
    """
    assert of_heads(gate, eap(gate)) == pytest.approx([0, 0])
    assert of_heads(gate, eap_ig_inputs(gate, steps=40, rule="midpoint")) == pytest.approx([-0.5, -0.5], abs=1e-5)
    masks = mask_gradient(gate, steps=50)
    assert of_heads(gate, masks) == pytest.approx([-(0.5**1.5) / 3] * 2, abs=0.01)
    assert masks.values.sum() == pytest.approx(-1, abs=0.03)  # the sum jumps by 3 somewhere in a step of 1/50


def test_or_gate_gradient_of_the_corrupted_run_counts_twice():
    known = known_circuit("or_gate")
    experiment = Experiment(known.model, known.pairs)
    at_corrupted = eap_ig_inputs(experiment, steps=1, rule="published_code")
    assert of_heads(experiment, at_corrupted) == pytest.approx([-1, -1])


def test_acdc_keeps_exactly_one_side_of_the_or_gate(gate):
    edges = acdc(gate, 0.5).circuit.edges
    assert sum(bool(edges[gate.graph.edge(name)]) for name in HEADS) == 1
    assert edges[gate.graph.edge("m0->logits")]


def test_micro_model_by_hand():
    known = known_circuit("micro")
    experiment = Experiment(known.model, known.pairs)
    graph = experiment.graph
    edges = ["a0.h1->logits", "a0.h0->a1.h1<v>", "input->a0.h0<v>"]
    circuits = torch.stack([graph.edges & ~graph.subset(edges[:count]) for count in range(4)])
    ((_, logits),) = experiment.logits(circuits)
    assert logits[:, 0].tolist() == [[25, 49], [19, 41], [13, 25], [9, 13]]
    assert experiment.clean.tolist() == [24]
    assert experiment.ablated.tolist() == [-24]


def test_on_the_linear_micro_model_all_gradients_are_exact():
    known = known_circuit("micro")
    experiment = Experiment(known.model, known.pairs)
    exact = exact_effects(experiment).values
    assert exact.abs().max() > 1
    for method in (eap, eap_ig_inputs, mask_gradient):
        torch.testing.assert_close(method(experiment).values, exact)


@pytest.mark.parametrize("name", ["reverse", "fraction", "next_in_order", "most_frequent"])
@pytest.mark.parametrize("ablation", [ZERO, RESAMPLE], ids=lambda ablation: ablation.name)
def test_acdc_finds_each_program(name, ablation):
    known = known_circuit(name)
    experiment = Experiment(known.model, known.pairs, L2, ablation)
    found = acdc(experiment, 1e-3).circuit
    truth = known.behavioural(ablation)
    assert set(found.names) == truth
    roc = roc_of_circuits(experiment.graph, [found.edges], truth)
    assert (roc.auroc, roc.pessimistic) == (1, 1)


@pytest.mark.parametrize("ablation", [ZERO, RESAMPLE], ids=lambda ablation: ablation.name)
def test_scores_of_acdc_rank_as_the_points_of_its_circuits_do(ablation):
    """Against the truth of the other ablation, where the curve is not just the corner."""
    known = known_circuit("reverse")
    experiment = Experiment(known.model, known.pairs, L2, ablation)
    truth = known.behavioural(ZERO if ablation is RESAMPLE else RESAMPLE)
    harm = float(experiment.ablated.mean())
    circuits = [acdc(experiment, share * harm).circuit.edges for share in THRESHOLDS]
    points = roc_of_circuits(experiment.graph, circuits, truth)
    scores = roc_of_scores(experiment.graph, acdc_scores(experiment).values, truth)
    assert (scores.auroc, scores.pessimistic) == (points.auroc, points.pessimistic)
    assert scores.auroc < 1
