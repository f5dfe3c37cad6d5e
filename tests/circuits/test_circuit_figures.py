"""Figures and page of a circuit: what they draw is what the circuit holds."""

import csv
import io
import json
from dataclasses import replace

import pytest
import torch

from circuits.circuit import Circuit
from circuits.curves import Curves, RandomCurves, table
from circuits.experiment import Experiment
from circuits.graph import transformer_graph
from circuits.scores.eap import eap
from circuits.scores.result import EdgeScores
from workbench.figures import circuit as figures
from workbench.figures import faithfulness
from workbench.figures.frame import reading, title
from workbench.figures.page import Table, page
from workbench.figures.table import to_csv

EDGES = ("input->a0.h1<v>", "a0.h1->m1", "a0.h1->a1.h0<q>", "a1.h0->logits", "m1->logits")


@pytest.fixture
def scores() -> EdgeScores:
    """Effects 1, -2, 3, -4, 5 of `EDGES` on a logit difference: those below zero work for the answer."""
    graph = transformer_graph(2, 2)
    values = torch.zeros(graph.edges.shape)
    for number, name in enumerate(EDGES, start=1):
        values[graph.edge(name)] = number * (-1) ** (number + 1)
    return EdgeScores(graph, values, "hand", {"clean": 1.0, "ablated": -1.0})


@pytest.fixture
def circuit(scores: EdgeScores) -> Circuit:
    return Circuit(scores.graph, scores.graph.subset(EDGES))


def rows(trace) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv({"data": [json.loads(trace.to_json())]}))))


def test_the_graph_draws_each_edge_once_with_its_sign(circuit, scores):
    lines = [trace for trace in figures.graph(circuit, scores).data if trace.mode == "lines"]
    drawn = {}
    for trace in lines:
        for row in rows(trace):
            drawn[row["edge"].lstrip("'")] = (float(row["score"].lstrip("'")), trace.line.color, trace.line.dash)
    assert set(drawn) == set(EDGES)
    assert drawn["a1.h0->logits"] == (4.0, figures.INDIGO, "solid")
    assert drawn["m1->logits"] == (-5.0, figures.ROSE, "solid")
    assert drawn["input->a0.h1<v>"] == (-1.0, figures.ROSE, "dot")


def test_lines_run_from_their_source_up_to_their_destination(circuit, scores):
    figure = figures.graph(circuit, scores)
    places = {
        row["node"]: float(row["row"])
        for trace in figure.data
        if trace.mode.startswith("markers")
        for row in rows(trace)
        if "node" in row
    }
    assert places == {"input": 0, "a0.h0": 1, "a0.h1": 1, "m0": 2, "a1.h0": 3, "a1.h1": 3, "m1": 4, "logits": 5}
    line = next(
        trace for trace in figure.data if trace.mode == "lines" and "m1->logits" in trace.meta["columns"]["x"]["edge"]
    )
    assert (round(line.y[0]), round(line.y[-2])) == (4, 5)


def test_nodes_outside_the_circuit_are_faint(circuit, scores):
    faint, strong = [
        trace for trace in figures.graph(circuit, scores).data if len(trace.customdata or ()) and trace.marker.symbol
    ]
    assert set(strong.text) == {"input", "a0.h1", "a1.h0", "m1", "logits"}
    assert {row["node"] for row in rows(faint)} == {"a0.h0", "a1.h1", "m0"}


def test_heat_sums_scores_by_layer(scores):
    cells = {(row["to"], row["from"]): float(row["sum of scores"]) for row in rows(figures.heat(scores).data[0])}
    assert cells["logits", "a1"] == 4
    assert cells["a0 values", "input"] == -1
    assert cells["a1 queries", "a0"] == -3
    assert ("a0 values", "m0") not in cells
    assert sum(cells.values()) == pytest.approx(float(-scores.values.sum()))


def test_every_architecture_is_drawn(experiment: Experiment):
    scores = eap(experiment)
    circuit = scores.circuit(scores.graph.n_edges // 2)
    figure = figures.graph(circuit, scores)
    dots = next(trace for trace in figure.data if trace.mode == "markers" and trace.marker.size == 5)
    assert [row["edge"].lstrip("'") for row in rows(dots)] == circuit.names
    assert figures.heat(scores).data[0].z.shape[1] >= 3
    by_position = replace(circuit, edges=circuit.edges.expand(3, -1, -1))
    assert len(figures.graph(by_position, scores).data) == len(figure.data)


SIZES = (0.1, 0.5, 1.0)
GOOD = Curves("good", SIZES, (1, 5, 10), torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0]))
RANDOM = RandomCurves(SIZES, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.2, 1.0]]))


def test_areas_by_hand():
    assert GOOD.cpr == pytest.approx(0.9)
    assert GOOD.cmd == pytest.approx(0.2)
    # the draws: .25 and .04 + .3 under f, .4 + .25 and .36 + .2 between f and 1
    assert RANDOM.cpr == pytest.approx((0.25 + 0.34) / 2)
    assert RANDOM.cmd == pytest.approx((0.65 + 0.56) / 2)
    assert table([GOOD], RANDOM).split("\n")[1:] == ["good    0.900  0.200", "random  0.295  0.605"]
    bars = faithfulness.areas([GOOD], RANDOM).data
    assert [bar.y for bar in bars] == [(GOOD.cpr, RANDOM.cpr), (GOOD.cmd, RANDOM.cmd)]


def test_curves_show_both_rankings_of_one_method_and_one_of_several():
    band, signed, absolute = faithfulness.curves([GOOD], RANDOM).data
    assert (signed.y, absolute.y) == ((1, 1, 1), (0, 1, 1))
    assert band.y[:3] == pytest.approx((0.0, 0.195, 1.0))  # upper ends
    assert [trace.name for trace in faithfulness.curves([GOOD, replace(GOOD, method="other")]).data] == [
        "good",
        "other",
    ]


def test_figures_say_how_they_are_read(circuit, scores):
    drawn = (
        figures.graph(circuit, scores),
        figures.heat(scores),
        faithfulness.curves([GOOD], RANDOM),
        faithfulness.areas([GOOD], RANDOM),
    )
    for figure in drawn:
        assert title(figure)
        assert len(reading(figure)) > 40


def test_a_page_keeps_markup_harmless(circuit, scores):
    text = "</script><b>x</b>"
    html = page(text, text, [(text, text, text)], [Table(text, text, (text, "n"), [(text, 1.5)]), figures.heat(scores)])
    before, _, _ = html.partition('<script type="application/json"')
    assert "<b>" not in before
    assert "</script>" not in before
    assert '<td class="number">1.500</td>' in before
    assert "https://" not in before
