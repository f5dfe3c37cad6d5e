"""A figure's numbers as CSV and JSON: what was drawn, under the names that its traces give.

A trace names its columns in `meta["columns"]`: for an axis, either a name for its coordinates or a mapping of names to
lists along it; `z`, a name; `cells`, further values by name for each cell of a heat map.
"""

import csv
import io
import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def to_csv(figure: Mapping[str, Any]) -> str:
    """The numbers of a figure (its plotly JSON) as CSV with a header: one row a heat-map cell, bar or point."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for trace in figure.get("data", []):
        header, rows = _heatmap(trace) if trace.get("type") == "heatmap" else _points(trace)
        writer.writerow(header)
        writer.writerows([[_safe(value) for value in row] for row in rows])
    return out.getvalue()


def array(value: Any) -> np.ndarray:
    """A plotly array as numpy, also from plotly's base64 form `{"dtype", "bdata", "shape"}`."""
    if not isinstance(value, Mapping):
        return np.asarray(value)
    flat = np.frombuffer(b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
    shape = value.get("shape")
    if shape is None:
        return flat
    return flat.reshape([int(n) for n in shape.split(",")] if isinstance(shape, str) else shape)


def _heatmap(trace: Mapping[str, Any]) -> tuple[list[str], Iterator[list[Any]]]:
    columns = (trace.get("meta") or {}).get("columns", {})
    z = array(trace["z"]).astype(float)
    across, down = _axis(trace, columns, "x", z.shape[1]), _axis(trace, columns, "y", z.shape[0])
    cells = {columns.get("z", "z"): z.tolist(), **columns.get("cells", {})}

    def rows() -> Iterator[list[Any]]:
        for i, j in np.argwhere(~np.isnan(z)):
            yield [*(v[i] for v in down.values()), *(v[j] for v in across.values()), *(v[i][j] for v in cells.values())]

    return [*down, *across, *cells], rows()


def _points(trace: Mapping[str, Any]) -> tuple[list[str], Iterator[list[Any]]]:
    columns = (trace.get("meta") or {}).get("columns", {})
    n = len(array(trace["x"]))
    named_first = sorted("xy", key=lambda axis: not isinstance(columns.get(axis), Mapping))
    series = {name: values for axis in named_first for name, values in _axis(trace, columns, axis, n).items()}
    return list(series), ([values[i] for values in series.values()] for i in range(n))


def _axis(trace: Mapping[str, Any], columns: Mapping[str, Any], axis: str, n: int) -> Mapping[str, Any]:
    """The columns that stand for one axis: those the trace lists, or its coordinates under the name it gives them."""
    named = columns.get(axis, axis)
    if isinstance(named, Mapping):
        return named
    return {named: array(trace[axis]).tolist() if axis in trace else list(range(n))}


def _safe(value: Any) -> Any:
    """Numbers as they are; text that a spreadsheet would run as a formula with an apostrophe before it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(f"{value:.7g}")
    if isinstance(value, str) and value[:1] in "=+-@\t\r" and len(value) > 1:
        return "'" + value
    return value


def to_json(figure: Mapping[str, Any]) -> str:
    """A figure as plotly JSON with its arrays written out as numbers, its template left out."""
    layout = {name: value for name, value in figure.get("layout", {}).items() if name != "template"}
    return json.dumps(_plain({"data": figure.get("data", []), "layout": layout}), ensure_ascii=False, indent=1)


def _plain(value: Any) -> Any:
    """JSON values, with base64 arrays decoded and NaN as null."""
    if isinstance(value, Mapping):
        return _plain(array(value).tolist()) if "bdata" in value else {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
