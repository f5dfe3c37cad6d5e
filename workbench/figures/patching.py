"""Patching: the effect of every cell, and a first-order preview against the exact sweep."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.figures.cells import AROUND_ZERO, cells
from workbench.figures.frame import blank, describe
from workbench.figures.text import label
from workbench.figures.theme import GREY, INDIGO

if TYPE_CHECKING:
    from workbench.attribution_patching import Agreement
    from workbench.patching import PatchingResult

PATCHED = {
    "denoise": "a clean activation put into the corrupted run",
    "noise": "a corrupted activation put into the clean run",
}


def figure(result: "PatchingResult") -> go.Figure:
    """The effect of patching each cell."""
    measure = result.metric.replace("_", " ")
    return describe(
        cells(result),
        f"{result.method.capitalize()}: {result.site}",
        f"Each cell: {PATCHED[result.direction]}, there only. Effect: how far the {measure} moves, 0 for the run "
        f"patched into ({result.into.mean():.2f}), 1 for the run patched from ({result.source.mean():.2f}); the ratio "
        f"of means over {len(result.into)} prompts. {AROUND_ZERO} In the hover: the 95% bootstrap interval.",
    )


def agreement(result: "Agreement") -> go.Figure:
    """The preview's effect of each cell against the exact one."""
    exact, preview = result.exact.effect.numpy().ravel(), result.preview.effect.numpy().ravel()
    names = [result.exact.name(cell) for cell in np.ndindex(*result.exact.effect.shape)]
    ends = [float(np.nanmin([exact, preview])), float(np.nanmax([exact, preview]))]
    picture = blank(height=420)
    picture.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip")
    picture.add_scatter(
        x=exact,
        y=preview,
        mode="markers",
        marker={"color": INDIGO, "size": 8, "opacity": 0.7},
        text=[label(name) for name in names],
        hovertemplate="<b>%{text}</b><br>exact %{x:+.3f}, preview %{y:+.3f}<extra></extra>",
        meta={"columns": {"x": {"cell": names, "exact": exact.tolist()}, "y": "preview"}},
    )
    for cell, _ in result.exact.ranked()[:4]:
        picture.add_annotation(
            x=result.exact.effect[cell].item(),
            y=result.preview.effect[cell].item(),
            text=label(result.exact.name(cell)),
            yshift=12,
        )
    picture.update_xaxes(title_text=f"effect, {result.exact.method}")
    picture.update_yaxes(title_text=f"effect, {result.preview.method}")
    return describe(
        picture,
        f"{result.preview.method.capitalize()} against {result.exact.method}",
        f"One point a cell of {result.exact.site}. x: its effect, found by patching it. y: the same to first order, "
        f"from one backward pass. On the dotted line the two agree. Correlation {result.pearson:.2f}, of ranks "
        f"{result.spearman:.2f}; the largest difference is {result.largest:.2f}.",
    )
