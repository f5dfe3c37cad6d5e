"""The figures of steering and probing show what their results hold, and say how to read it."""

import numpy as np
import pytest
import torch

from tests.workbench.test_dose import response
from tests.workbench.test_linear_representation import group
from tests.workbench.test_probing import linear, made
from workbench.figures import probing, steering
from workbench.figures.frame import reading, title
from workbench.linear_representation import transfer
from workbench.probing import probe


def test_dose_and_response():
    result = response([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], [2.0, 2.1, 2.3])
    figure = steering.figure(result)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert list(lines[0].y) == [0, 0.5, 1]
    assert list(lines[1].y) == pytest.approx([0, 0.05, 0.15], abs=1e-6)
    marks = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert [trace.x[0] for trace in marks] == [1, 1]
    assert "budget of 10%" in reading(figure)
    assert title(figure) == "Steering towards x"
    assert not [trace for trace in steering.figure(response([[0.0]], [2.0])).data if trace.mode == "markers+text"]


def test_probes():
    result = probe(made(*linear()))
    for measure in probing.MEASURES:
        figure = probing.scores(result, measure)
        shown = dict(zip(figure.data[0].y, np.array(figure.data[0].z)[:, 0], strict=True))
        values = getattr(result, measure)[0].tolist()
        assert [shown["c0"], shown["c1"]] == pytest.approx(values, abs=1e-6)
    figure = probing.cosines(result, "here")
    assert np.diag(figure.data[0].z) == pytest.approx([1, 1], abs=1e-5)


def test_transfer():
    labels = torch.arange(100) % 2 == 0
    rows = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0))
    groups = {"a": group(rows[0], labels), "b": group(rows[1], labels)}
    result = transfer(groups)
    figure = probing.transfer(result)
    assert np.array(figure.data[0].z) == pytest.approx(result.auroc[0].numpy())
    assert list(figure.data[0].x) == ["a", "b"]
