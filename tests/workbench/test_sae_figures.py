"""The figures of training and of the concepts that were found."""

from workbench.figures.concepts import scores
from workbench.figures.frame import reading
from workbench.figures.training import curves


def test_concepts_stand_in_the_order_of_the_best() -> None:
    figure = scores({"a": {"day": 0.2, "<b>": 0.9, "city_name": 0.5}, "b": {"day": 0.95, "<b>": 0.4}})
    spans, a, b = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["day", "&lt;b&gt;", "city name"]
    assert list(zip(a.y, a.x, strict=True)) == [(0, 0.2), (1, 0.9), (2, 0.5)]
    assert list(zip(b.y, b.x, strict=True)) == [(0, 0.95), (1, 0.4)]
    assert list(spans.x) == [0.2, 0.95, None, 0.4, 0.9, None, 0.5, 0.5, None]
    assert figure.layout.shapes[0].x0 == 0.8
    assert "covered" in reading(figure)


def test_every_run_is_a_curve() -> None:
    lines = [{"tokens": 10, "fvu": 0.9, "dead": 0.0}, {"tokens": 20, "fvu": 0.4, "dead": 0.5}]
    figure = curves({"one": lines, "two": lines[:1]})
    assert [list(trace.y) for trace in figure.data] == [[0.9, 0.4], [0.9]]
    assert [trace.name for trace in figure.data] == ["one", "two"]
    assert list(figure.data[0].x) == [10, 20]
    assert list(curves({"one": lines}, "dead").data[0].y) == [0.0, 0.5]
