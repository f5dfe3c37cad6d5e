"""Effects of cells: a heat map around zero where they lie on a grid, bars with their intervals where they do not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.figures.frame import blank
from workbench.figures.text import label, shorten
from workbench.figures.theme import GREY, INDIGO, ROSE

if TYPE_CHECKING:
    from workbench.cells import Cells

BARS = 30
"""Bars that are drawn, those of the largest effects."""
WRITTEN = 16
"""Up to so many columns, each cell has its number written in it."""
FAINT = 0.02
"""Effects below this share of the largest are not written."""
AROUND_ZERO = "Colour: below zero rose, above zero indigo, zero the ground."


def cells(result: "Cells") -> go.Figure:
    """The effect of every cell.

    A heat map with the last axis across and the others down; of query × key cells, those of the head with the largest
    effect. Bars for a single axis, and for neurons, of which there are too many.
    """
    if len(result.axes) == 1 or result.axes[-1] == "neuron":
        return bars(result)
    fixed = result.ranked()[0][0][: len(result.axes) - 2] if {"query", "key"} <= set(result.axes) else ()
    return heatmap(result, fixed)


def heatmap(result: "Cells", fixed: Sequence[int] = ()) -> go.Figure:
    """The effects with the leading axes held at `fixed`, the last axis across, the others down."""
    *down, across = result.axes[len(fixed) :]
    columns = result.labels[-1]
    places = list(np.ndindex(*result.effect.shape[len(fixed) : -1]))
    effect, low, high, raw = (
        part.double().numpy()[tuple(fixed)].reshape(len(places), len(columns))
        for part in (result.effect, *result.interval, result.raw)
    )
    rows = [_row(result, (*fixed, *place)) for place in places]
    most = float(np.nanmax(np.abs(effect), initial=1e-9))
    written = len(columns) <= WRITTEN and len(rows) <= 2 * WRITTEN
    figure = blank(height=110 + (30 if written else 18) * len(rows))
    figure.add_heatmap(
        z=effect,
        zmin=-most,
        zmax=most,
        autocolorscale=True,
        xgap=1,
        ygap=1,
        text=[[f"{value:.2f}" if abs(value) > FAINT * most else "" for value in row] for row in effect],
        texttemplate="%{text}" if written else None,
        textfont={"size": 11},
        customdata=[
            [
                _hover(
                    result, (*fixed, *place, column), effect[i, column], low[i, column], high[i, column], raw[i, column]
                )
                for column in range(len(columns))
            ]
            for i, place in enumerate(places)
        ],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={"title": {"text": "effect"}},
        meta={
            "columns": {
                "x": {across: columns},
                "y": {" ".join(down): rows},
                "z": "effect",
                "cells": {"low": low.tolist(), "high": high.tolist(), "raw": raw.tolist()},
            }
        },
    )
    ticks = {"showgrid": False, "zeroline": False, "ticks": ""}
    figure.update_xaxes(
        **ticks,
        tickvals=list(range(len(columns))),
        ticktext=[label(shorten(name, 14)) for name in columns],
        tickangle=-40 if across in ("position", "query", "key") else 0,
        title_text=across,
    )
    figure.update_yaxes(
        **ticks,
        tickvals=list(range(len(rows))),
        ticktext=[label(shorten(name, 18)) for name in rows],
        autorange="reversed",
        title_text=" and ".join(down) + (f", in {result.name(fixed)}" if fixed else ""),
    )
    return figure


def bars(result: "Cells") -> go.Figure:
    """The largest effects, with their intervals, the largest above."""
    shown = result.ranked()[:BARS]
    if result.axes == ("layer",):  # few, and in an order of their own
        shown.sort()
    names = [result.name(cell) for cell, _ in shown]
    effect = np.array([value for _, value in shown])
    low, high, raw = (np.array([part[cell].item() for cell, _ in shown]) for part in (*result.interval, result.raw))
    figure = blank(height=90 + 24 * len(shown))
    figure.add_bar(
        x=effect,
        y=[label(name) for name in names],
        orientation="h",
        marker={"color": np.where(effect < 0, ROSE, INDIGO)},
        error_x={"array": high - effect, "arrayminus": effect - low, "color": GREY, "thickness": 1.5, "width": 3},
        customdata=[_hover(result, cell, value, low[i], high[i], raw[i]) for i, (cell, value) in enumerate(shown)],
        hovertemplate="%{customdata}<extra></extra>",
        meta={
            "columns": {
                "x": "effect",
                "y": {"cell": names, "low": low.tolist(), "high": high.tolist(), "raw": raw.tolist()},
            }
        },
    )
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=False)
    figure.update_xaxes(title_text="effect", zeroline=True)
    return figure


def _row(result: "Cells", place: Sequence[int]) -> str:
    """The name of a row: `L2H3`, or the token of a query."""
    *_, axis = result.axes[: len(place)]
    if axis not in ("layer", "head"):
        return result.labels[len(place) - 1][place[-1]]
    prefix = {"layer": "L", "head": "H"}
    parts = zip(result.axes, result.labels, place, strict=False)
    return "".join(prefix[axis] + names[index] for axis, names, index in parts)


def _hover(result: "Cells", cell: Sequence[int], effect: float, low: float, high: float, raw: float) -> str:
    lines = [f"<b>{label(result.name(cell))}</b>", f"effect {effect:+.3f}"]
    if not np.isnan(low):
        lines[1] += f", 95% interval {low:+.3f} to {high:+.3f}"
    return "<br>".join([*lines, f"mean of the measure {raw:.3f}"])
