"""A model trained to have the circuit of a program has it, and one that is not trained has not."""

import pytest
import torch

from circuits.ablations import RESAMPLE
from circuits.experiment import Experiment
from circuits.graph import graph_of
from circuits.methods import acdc_scores
from circuits.scores.exact import exact_effects
from circuits.truth import programs
from circuits.truth.forced import exchange, exchange_accuracy, force, forced
from circuits.truth.known import compiled as known
from circuits.truth.roc import roc_of_scores
from tests.circuits.truth.plain import plain_logits
from workbench.errors import SettingError
from workbench.metrics import KL, LOGIT

TRUTH = frozenset({"input->a0.h0<k>", "a0.h0->m0", "m0->a1.h0<q>", "input->a1.h0<v>", "a1.h0->logits"})
"""What prompts of one length differ in: where the list ends, and its items. Positions are alike in all of them."""


@pytest.fixture(scope="module")
def reverse():
    """Lists of four items of which one has been said, and of three of which two have."""
    program = programs.reverse()
    return known(program, [words for words in program.inputs() if len(words) == 6], n=200)


@pytest.mark.parametrize("edge", ["input->a0.h0<k>", "a0.h0->m0", "m0->a1.h0<q>", "a0.h0->a1.h1<v>", "m1->logits"])
def test_an_exchange_is_that_of_the_plain_model(reverse, edge):
    model = force(reverse.model, reverse.pairs, steps=1).model
    clean, corrupted = reverse.pairs.clean, reverse.pairs.corrupted
    expected, _ = plain_logits(model, clean, [edge], plain_logits(model, corrupted)[1])
    plain, exchanged = exchange(model, clean, corrupted, [None, edge])
    torch.testing.assert_close(plain, plain_logits(model, clean)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(exchanged[::2], plain[::2])
    torch.testing.assert_close(exchanged[1::2], expected[1::2], atol=1e-5, rtol=1e-4)


def test_the_program_itself_passes_every_exchange(reverse):
    accuracy = exchange_accuracy(reverse.model, reverse.model, reverse.pairs)
    assert len(accuracy) == 23
    assert set(accuracy.values()) == {1}


def test_a_model_that_was_hardly_trained_fails(reverse):
    circuit = force(reverse.model, reverse.pairs, steps=2)
    assert len(circuit.accuracy) == graph_of(circuit.model).n_edges == 46
    assert max(circuit.accuracy.values()) < 0.8
    assert circuit.truth == TRUTH == reverse.behavioural(RESAMPLE)
    assert list(circuit.truths.values()) == [TRUTH]
    assert not any(parameter.requires_grad for parameter in circuit.model.bridge.original_model.parameters())
    assert force(reverse.model, reverse.pairs, steps=2).model.fingerprint == circuit.model.fingerprint


def test_a_model_of_too_few_heads_is_refused(reverse):
    with pytest.raises(SettingError, match="n_heads is 0; the program needs 1"):
        force(reverse.model, reverse.pairs, n_heads=0)


@pytest.mark.slow
def test_the_circuit_is_forced_and_found():
    """By exact effects entirely. ACDC as well if it looks at KL; on one logit it also keeps edges that move it without
    changing the answer, which were not forced to carry nothing.
    """
    circuit = forced()
    assert min(circuit.accuracy.values()) > 0.97
    assert circuit.truth == TRUTH
    assert "5 of 46 edges forced" in str(circuit)
    for metric, least in ((KL, 1), (LOGIT, 0.95)):
        experiment = Experiment(circuit.model, circuit.pairs, metric)
        graph = experiment.graph
        assert roc_of_scores(graph, exact_effects(experiment).values.abs(), TRUTH).auroc == 1
        assert roc_of_scores(graph, acdc_scores(experiment).values, TRUTH).auroc >= least
