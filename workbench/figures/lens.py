"""A lens as a heat map, layer × position, coloured by any of its measures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten

if TYPE_CHECKING:
    from workbench.lens import LensResult

CELL_WIDTH = 58
"""Pixels that a token needs to be read in its cell."""
WRITTEN = 256
"""In prompts longer than this, cells are coloured only; the rest is in the hover."""


@dataclass(frozen=True)
class Measure:
    """One way to colour the cells."""

    name: str
    values: Callable[["LensResult"], np.ndarray]
    """The numbers, [row, pos]; NaN where there is none."""
    means: str
    shown: str
    """Format of one number in its cell."""
    top: float | None = None
    """Where the colour scale ends, if the measure has a natural end."""
    logarithmic: bool = False
    strong_is_low: bool = False


MEASURES = {
    "probability": Measure(
        "probability of the top token",
        lambda result: result.top_probs[..., 0].numpy(),
        "the probability that the row gives to its own top token",
        ".2f",
        top=1.0,
    ),
    "next": Measure(
        "probability of the actual next token",
        lambda result: _padded(result.next_prob.numpy()),
        "the probability that the row gives to the token that really follows",
        ".2f",
        top=1.0,
    ),
    "rank": Measure(
        "rank of the actual next token",
        lambda result: _padded(result.next_rank.numpy().astype(float)),
        "the rank, 1 is best, that the row gives to the token that really follows",
        ".0f",
        logarithmic=True,
        strong_is_low=True,
    ),
    "final": Measure(
        "rank of the final prediction",
        lambda result: result.final_rank.numpy().astype(float),
        "the rank, 1 is best, that the row gives to the token that the last layer predicts",
        ".0f",
        logarithmic=True,
        strong_is_low=True,
    ),
    "entropy": Measure(
        "entropy",
        lambda result: result.entropy.numpy(),
        "the entropy of the row's distribution, in nats: low is certain",
        ".2f",
        strong_is_low=True,
    ),
    "kl": Measure(
        "KL to the final row",
        lambda result: result.kl_to_final.numpy(),
        "KL(final ‖ row), in nats: what is lost by reading this row in place of the last",
        ".2f",
        strong_is_low=True,
    ),
}


ROWS = {
    "layers": (
        "after layer",
        "the layer whose residual stream is read through the final norm and the unembedding; 'embed' is before the "
        "first layer, the top row is the model's own prediction",
    ),
    "stream": (
        "residual stream after",
        "where the residual stream is read through the final norm and the unembedding, 'mid' between attention and MLP "
        "of a layer; 'embed' is before the first layer, the top row is the model's own prediction",
    ),
    "sublayers": (
        "written by",
        "what wrote to the residual stream; each is read alone, by the final norm at the scale that it has for all, "
        "and the unembedding: the logits of all rows add up to the model's, less their constant part",
    ),
    "heads": (
        "written by head",
        "the head, layer L and number H; what it writes is read alone, by the final norm at the scale that it has for "
        "all, and the unembedding",
    ),
}
"""By what was read: the title of the y axis, and what a row is."""
INSERTED = (
    "the layer of the source prompt after which an activation is taken; the row reads what the target prompt says"
)


def figure(result: "LensResult", show: str = "probability", cells: str = "token") -> go.Figure:
    """The lens of one prompt. `show` is a key of `MEASURES`; `cells`: write the top "token" or the "number"."""
    measure = MEASURES[show]
    values = measure.values(result)
    colours = np.log10(values) if measure.logarithmic else values
    rows, n_pos = values.shape
    names = [label(shorten(string, 12)) for string in result.strings]
    picture = blank(height=92 + 40 * rows)
    picture.add_heatmap(
        z=colours.astype(np.float32),
        zmin=0,
        zmax=measure.top,
        reversescale=measure.strong_is_low,
        xgap=1,
        ygap=1,
        text=_cell_texts(result, values, measure, cells),
        texttemplate="%{text}" if n_pos <= WRITTEN else None,
        textfont={"size": 11},
        customdata=_hovers(result, values, measure),
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        colorbar=_colorbar(measure, values),
        meta={
            "columns": {
                "x": {"position": list(range(n_pos)), "token": result.strings},
                "y": {"layer": result.labels},
                "z": ("log10 " if measure.logarithmic else "") + measure.name,
                "cells": {"top token": [[cell[0] for cell in row] for row in result.top_strings]},
            },
        },
    )
    axis = {"showgrid": False, "zeroline": False, "ticks": ""}
    picture.update_xaxes(**axis, tickvals=list(range(n_pos)), ticktext=names, tickangle=-40, title_text="token read")
    picture.update_yaxes(**axis, tickvals=list(range(rows)), ticktext=result.labels, title_text=ROWS[result.read][0])
    written = "most probable token" if cells == "token" else "number"
    rows_are = INSERTED if result.lens == "Patchscopes" else ROWS[result.read][1]
    translated = ", after the tuned lens's translator" if result.lens == "Tuned lens" else ""
    picture = describe(
        picture,
        f"{result.lens}: {measure.name}",
        f"x: the position in the prompt; the cell predicts what comes after that token. y: {rows_are}{translated}. "
        f"Colour: {measure.means}. In a cell: the {written}.",
    )
    picture.layout.meta |= {"min_width": 120 + (CELL_WIDTH * n_pos if n_pos <= WRITTEN else 0)}
    return picture


def _padded(values: np.ndarray) -> np.ndarray:
    """[row, pos-1] → [row, pos]: nothing follows the last token."""
    return np.pad(values.astype(float), ((0, 0), (0, 1)), constant_values=np.nan)


def _cell_texts(result: "LensResult", values: np.ndarray, measure: Measure, cells: str) -> list[list[str]]:
    if cells == "number":
        return [["" if np.isnan(value) else format(value, measure.shown) for value in row] for row in values]
    return [[label(shorten(cell[0], 9)) for cell in row] for row in result.top_strings]


def _hovers(result: "LensResult", values: np.ndarray, measure: Measure) -> list[list[str]]:
    """For each cell, its top tokens with their probabilities, and its measure."""
    return [
        [_hover(result, values, measure, row, position) for position in range(values.shape[1])]
        for row in range(values.shape[0])
    ]


def _hover(result: "LensResult", values: np.ndarray, measure: Measure, row: int, position: int) -> str:
    lines = [f"after <b>{label(result.strings[position])}</b> ({position}), {_place(result, row)}"]
    pairs = zip(result.top_strings[row][position], result.top_probs[row, position].tolist(), strict=True)
    lines += [f"{probability:.3f}  <b>{label(string)}</b>" for string, probability in pairs]
    value = values[row, position]
    if not np.isnan(value):
        lines.append(f"{measure.name}: {format(value, measure.shown)}")
    return "<br>".join(lines)


def _place(result: "LensResult", row: int) -> str:
    name = result.labels[row]
    if name == "embed":
        return "before layer 0"
    if result.read in ("layers", "stream"):
        number, _, middle = name.partition(" ")
        return f"after the attention of layer {number}" if middle else f"after layer {number}"
    return f"written by {name}"


def _colorbar(measure: Measure, values: np.ndarray) -> dict[str, object]:
    bar: dict[str, object] = {}
    if measure.logarithmic:
        powers = range(int(np.ceil(np.log10(max(np.nanmax(values, initial=1), 10)))) + 1)
        bar |= {"tickvals": list(powers), "ticktext": [f"{10**power:,}" for power in powers]}
    return bar
