"""Figures of attribution and lenses: the numbers in their CSV are those of the result."""

import csv
import io
import json

import plotly.graph_objects as go
import pytest
import torch

from workbench.attribution import Attribution
from workbench.errors import SettingError
from workbench.figures import attribution, lens, theme, tuned_lens
from workbench.figures.frame import reading, title
from workbench.figures.table import to_csv
from workbench.integrated_gradients import InputAttribution
from workbench.lens import logit_lens
from workbench.lens_kl import LensKL
from workbench.model import HookedModel
from workbench.patchscopes import patchscopes


def rows(figure: go.Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(json.loads(figure.to_json())))))


def result(by: str, **parts: torch.Tensor) -> Attribution:
    """Two prompts, whose mean is what is given."""
    parts = {kind.replace("_", " "): torch.stack([values - 1, values + 1]) for kind, values in parts.items()}
    total = torch.cat([values.flatten(1) if values.ndim > 1 else values[:, None] for values in parts.values()], 1).sum(
        1
    )
    return Attribution(by, "Logit difference", None, parts, total, total)


BY_HEAD = result("head", embedding=torch.tensor(0.5), head=torch.tensor([[1.0, -4.0], [3.0, 0.0]]), MLP=torch.zeros(2))
BY_SUBLAYER = result("sublayer", embedding=torch.tensor(0.5), attention=torch.tensor([1.0, -2.5]), MLP=torch.zeros(2))


def test_bars_are_the_largest_means_in_order():
    table = rows(attribution.bars(BY_HEAD, k=3))
    assert [(row["part"], float(row["logits"])) for row in table] == [("L0H1", -4.0), ("L1H0", 3.0), ("L0H0", 1.0)]


def test_the_grid_holds_every_head_and_mlp():
    table = {(row["layer"], row["part"]): float(row["logits"]) for row in rows(attribution.heads(BY_HEAD))}
    assert table["0", "H1"] == -4.0
    assert table["1", "MLP"] == 0.0
    assert len(table) == 6
    by_source = result("source", head_from=torch.ones(2, 2, 5), MLP=torch.zeros(2))
    assert float(rows(attribution.heads(by_source))[0]["logits"]) == pytest.approx(5.0)
    with pytest.raises(SettingError, match="not by sublayer"):
        attribution.heads(BY_SUBLAYER)


def test_the_waterfall_goes_through_the_model_in_order():
    table = rows(attribution.waterfall(BY_SUBLAYER))
    assert [row["part"] for row in table[:-1]] == ["embedding", "L0 attention", "L0 MLP", "L1 attention", "L1 MLP"]
    assert [float(row["logits"]) for row in table[:-1]] == [0.5, 1.0, 0.0, -2.5, 0.0]
    with pytest.raises(SettingError, match="not by head"):
        attribution.waterfall(BY_HEAD)


def test_the_token_strip_holds_both_attributions():
    values = torch.tensor([[1.0, -2.0, 0.5]])
    shown = InputAttribution(
        "Logit", [["<b>", "x", "y"]], values, 2 * values, torch.tensor([3.0]), torch.tensor([1.0]), "zeros", 4
    )
    table = rows(attribution.tokens(shown))
    assert [float(row["value"]) for row in table] == [1.0, -2.0, 0.5, 2.0, -4.0, 1.0]
    assert [float(row["share of the largest"]) for row in table[:3]] == [0.5, -1.0, 0.25]
    assert "&lt;b&gt;" in attribution.tokens(shown).layout.xaxis.ticktext[0]


def test_kl_of_both_lenses_by_layer():
    measured = LensKL(["embed", "0"], [4.0, 2.0], [1.0, 0.5], 1000, "tinytown")
    figure = tuned_lens.kl_by_layer(measured)
    assert [list(trace.x) for trace in figure.data] == [["embed", "0"]] * 2
    assert {trace.name: list(trace.y) for trace in figure.data} == {"logit lens": [4.0, 2.0], "tuned lens": [1.0, 0.5]}
    assert "1,000 tokens of tinytown" in reading(figure)


@pytest.mark.parametrize("read", ["layers", "stream", "sublayers", "heads"])
def test_lenses_name_their_rows(hooked, read: str):
    model: HookedModel = hooked("gemma2")
    result = logit_lens(model, torch.tensor([3, 1, 4]), read=read)
    figure = lens.figure(result, "kl", "number")
    assert [row["layer"] for row in rows(figure)[:: len(result.strings)]] == result.labels
    place = {
        "layers": "after layer 0",
        "stream": "after the attention of layer 0",
        "sublayers": "written by L0 attention",
    }
    assert place.get(read, "written by L0H1") in figure.data[0].customdata[1][0]
    assert title(figure) == "Logit lens: KL to the final row"


def test_every_figure_says_what_it_shows(hooked):
    told = patchscopes(hooked("llama"), torch.tensor([3, 1, 4]), torch.tensor([1, 5])).readings
    figures = [
        attribution.bars(BY_HEAD),
        attribution.heads(BY_HEAD),
        attribution.waterfall(BY_SUBLAYER),
        lens.figure(told),
    ]
    for figure in figures:
        assert reading(figure).count(":") >= 2
        assert figure.layout.template.layout.paper_bgcolor == theme.LIGHT_PALETTE.surface
    assert title(figures[-1]).startswith("Patchscopes")
    assert "target prompt" in reading(figures[-1])
