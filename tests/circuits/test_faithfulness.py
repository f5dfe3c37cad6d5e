"""Faithfulness, completeness, minimality: curves of a model, and the OR gate by hand."""

import pytest
import torch

from circuits.circuit import Circuit
from circuits.completeness import completeness, greedy_sets, minimality, random_sets
from circuits.experiment import Experiment
from circuits.faithfulness import MIB_SIZES, faithfulness, random_baseline
from circuits.scores.eap import eap
from workbench.errors import SettingError
from workbench.model import load_model
from workbench.tinytown.tasks import task_prompts


@pytest.fixture(scope="module")
def tinytown() -> Experiment:
    return Experiment(load_model("tinytown"), task_prompts("ioi", 16))


def test_the_curve_of_a_circuit(tinytown):
    scores = eap(tinytown)
    result = faithfulness(tinytown, scores, ranking="absolute")
    assert result.n_edges == tuple(int(size * 479) for size in MIB_SIZES)
    assert result.f[0] == pytest.approx(0, abs=1e-5)  # no edges at all
    assert result.f[-1] == pytest.approx(1, abs=1e-5)
    assert result.kl[-1] == pytest.approx(0, abs=1e-5)
    row = MIB_SIZES.index(0.1)
    circuit = scores.circuit(47)
    assert int(circuit.edges.sum()) == result.n_pruned[row]
    values = tinytown.values(circuit.edges[None])[0]
    assert torch.allclose(result.metric[row], values, atol=1e-4)
    clean, ablated = tinytown.clean.mean(), tinytown.ablated.mean()
    assert float(result.f[row]) == pytest.approx(float((values.mean() - ablated) / (clean - ablated)), abs=1e-5)
    assert "CPR" in str(result)
    with pytest.raises(SettingError, match="rising"):
        faithfulness(tinytown, scores, sizes=(0.5, 0.1))


def test_random_circuits_beside_a_good_one(tinytown):
    circuit = eap(tinytown).circuit(60)
    result = random_baseline(tinytown, 60, draws=9, circuit=circuit.edges)
    assert result.circuit > 0.8 > result.interval[1]
    assert result.p_value == 0.1  # (1 + 0) / (1 + 9)
    again = random_baseline(tinytown, 60, draws=9)
    assert torch.equal(result.f, again.f)


def test_half_an_or_gate_is_not_complete(or_gate):
    """The circuit is one way through; with its node gone the model still has the other."""
    graph = or_gate.graph
    half = Circuit(graph, graph.subset(["input->b0.0", "b0.0->output"]))
    result = completeness(or_gate, half, {"node": ["b0.0"], "nothing": []})
    assert result.circuit.tolist() == [0, 1]
    assert result.model.tolist() == [1, 1]
    assert result.incompleteness.tolist() == [1, 0]
    whole = Circuit(graph, graph.edges)
    assert completeness(or_gate, whole, random_sets(whole, 4)).incompleteness.tolist() == [0] * 4
    assert greedy_sets(or_gate, half, runs=2) == {"greedy 0": ["b0.0"], "greedy 1": ["b0.0"]}
    with pytest.raises(SettingError, match="no node 'b7'"):
        completeness(or_gate, half, {"wrong": ["b7"]})


def test_each_way_of_an_or_gate_is_needed_where_the_other_is_missing(or_gate):
    whole = Circuit(or_gate.graph, or_gate.graph.edges)
    assert minimality(or_gate, whole, {}).difference.tolist() == [0, 0]
    result = minimality(or_gate, whole, {"first": ["b0.0"], "second": ["b0.1"]})
    assert result.difference.tolist() == [1, 1]
    assert result.sets == ("second", "first")
