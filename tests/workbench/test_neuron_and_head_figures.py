"""Figures of neurons and heads hold the numbers of their results, and export them."""

import csv
import io
import json

import numpy as np
import pytest
import torch

from workbench.attention import attention_patterns
from workbench.attention_flow import rollout
from workbench.composition import composition
from workbench.corpus import open_corpus
from workbench.figures import flow, head_circuits, neurons
from workbench.figures.frame import reading, title
from workbench.figures.table import to_csv
from workbench.head_circuits import ov_circuit, ov_spectrum
from workbench.head_tables import SCORES, head_table
from workbench.memories import memories
from workbench.model import load_model
from workbench.neuron_pages import neuron_page
from workbench.neurons import neuron_activity
from workbench.routing import routing
from workbench.selectivity import compare, selectivity


@pytest.fixture(scope="module")
def tinytown():
    return load_model("tinytown")


def rows(figure) -> list[dict[str, str]]:
    """What the first trace exports."""
    assert title(figure)
    assert len(reading(figure)) > 40
    plain = json.loads(figure.to_json())
    return list(csv.DictReader(io.StringIO(to_csv(plain | {"data": plain["data"][:1]}))))


def test_a_neurons_page(tinytown):
    corpus = open_corpus("tinytown", tinytown.tokenizer)
    page = neuron_page(memories(tinytown, 2, neuron_activity(tinytown, corpus, [2], n_tokens=3000)[2]), 66)
    figure = neurons.page(page)
    contexts, histogram, promoted = figure.data
    assert contexts.z[0, neurons.BEFORE] == pytest.approx(1.0)
    assert contexts.text[0][neurons.BEFORE] == page.triggers[0].strings[page.triggers[0].peak]
    assert sum(histogram.y) == page.n_tokens
    assert promoted.x[0] == page.promoted[0][1]
    assert rows(figure)


def test_how_units_are_spread():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(200, 3, generator=generator) < 0.5
    one = selectivity("<units>", torch.randn(200, 9, generator=generator), labels, tuple("abc"))
    figure = neurons.spread(compare(one, one))
    assert sum(figure.data[0].y) == pytest.approx(1.0)
    assert figure.data[0].name.startswith("&lt;units&gt;")
    assert rows(figure)


def test_rollout(tinytown):
    result = rollout(attention_patterns(tinytown, "Mary went to the store"))
    table = rows(flow.rollout(result))
    assert len(table) == 4 * 6
    assert sum(float(row["share"]) for row in table[-6:]) == pytest.approx(1.0, abs=1e-4)
    assert np.shape(flow.rollout(result, position=2).data[0].z) == (4, 3)


def test_composition(tinytown):
    result = composition(tinytown)
    table = rows(flow.composition(result, "k"))
    assert len(table) == 6 * 16  # pairs of layers, pairs of heads
    cell = next(row for row in table if (row["earlier head"], row["later head"]) == ("L0H0", "L1H2"))
    assert float(cell["k composition"]) == pytest.approx(result.k[0, 0, 1, 2].item(), rel=1e-4)


def test_pairs_and_spectrum(tinytown):
    circuit = ov_circuit(tinytown, 1, 1, k=3)
    table = rows(head_circuits.pairs(circuit))
    assert [row["from"] for row in table[:3]] == circuit.top.row_strings
    assert float(table[-1]["logit effect"]) == pytest.approx(circuit.bottom.values[0].item(), rel=1e-4)
    spectrum = ov_spectrum(tinytown, 1, 1)
    assert len(rows(head_circuits.spectrum(spectrum))) == 32


@pytest.mark.parametrize("name", SCORES)
def test_every_score_of_heads(tinytown, name: str):
    result = head_table(tinytown, name, lambda: open_corpus("tinytown", tinytown.tokenizer, context=32))
    table = rows(head_circuits.table(result))
    assert len(table) == 16
    layer, head, best = result.ranked()[0]
    assert best == result.values.max()
    assert f"L{layer}H{head}" in str(result).splitlines()[1]


def test_load_of_experts(hooked, tmp_path):
    (tmp_path / "text.txt").write_text("The cat sat on the mat.\n" * 50)
    model = hooked("mixtral")
    result = routing(model, open_corpus(tmp_path / "text.txt", model.tokenizer, context=16), n_tokens=200)
    table = rows(flow.load(result))
    assert float(table[5]["load"]) == pytest.approx(result.load[1, 1].item(), rel=1e-4)
