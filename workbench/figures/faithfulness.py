"""Faithfulness of circuits at every size, and the areas that sum it up."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.theme import AMBER, GREY, INDIGO, ROSE

if TYPE_CHECKING:
    from circuits.curves import Curves, RandomCurves

COLOURS = (INDIGO, AMBER, ROSE, "#3fa093", "#8f6fc4", "#b0793b", "#4f93c9", "#a8577e")
"""Of curves side by side."""


def curves(found: "Sequence[Curves]", random: "RandomCurves | None" = None) -> go.Figure:
    """f at every size, of one method by both rankings or of several by their signed one; random ones as a band."""
    figure = blank(height=400, showlegend=True)
    for height in (0, 1):
        figure.add_hline(y=height, line={"color": GREY, "width": 1, "dash": "dot"})
    if random is not None:
        low, high = random.interval.tolist()
        figure.add_scatter(
            x=[*random.sizes, *random.sizes[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor=GREY,
            opacity=0.25,
            mode="lines",
            line={"width": 0, "color": GREY},
            hoverinfo="skip",
            name="random, 95%",
            meta={"columns": {"x": "share of edges", "y": "f, random"}},
        )
    lines = [(one.method, one.signed) for one in found]
    if len(found) == 1:
        lines = [(f"{found[0].method}, signed ranking", found[0].signed)]
        if not found[0].signed.equal(found[0].absolute):
            lines.append((f"{found[0].method}, absolute ranking", found[0].absolute))
    for number, (name, values) in enumerate(lines):
        figure.add_scatter(
            x=found[0].sizes,
            y=values.tolist(),
            mode="lines+markers",
            name=name,
            line={"color": COLOURS[number % len(COLOURS)], "width": 2},
            marker={"size": 6},
            customdata=found[0].n_edges,
            hovertemplate=f"{name}<br>%{{customdata:,}} edges (%{{x:.1%}}): f = %{{y:.3f}}<extra></extra>",
            meta={"columns": {"x": "share of edges", "y": f"f, {name}"}},
        )
    sizes = found[0].sizes
    figure.update_xaxes(
        type="log", title_text="share of all edges", tickvals=sizes, ticktext=[f"{100 * size:g}%" for size in sizes]
    )
    figure.update_yaxes(title_text="faithfulness f", zeroline=False)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin={"t": 34})
    return describe(
        figure,
        "Faithfulness at every size",
        "x: the share of the model's edges that is kept, the best first; all others are ablated. y: how much of the "
        "metric they keep, 0 as with every edge ablated and 1 as in the whole model, on prompts held out. Grey: the "
        "middle 95% of random rankings.",
    )


def areas(found: "Sequence[Curves]", random: "RandomCurves") -> go.Figure:
    """CPR and CMD of several methods, beside random."""
    rows = sorted(found, key=lambda one: one.cmd)
    names = [*(one.method for one in rows), "random"]
    figure = blank(height=340, showlegend=True, barmode="group")
    for name, values, colour in (
        ("CPR", [*(one.cpr for one in rows), random.cpr], INDIGO),
        ("CMD", [*(one.cmd for one in rows), random.cmd], AMBER),
    ):
        figure.add_bar(
            x=names,
            y=values,
            name=name,
            marker={"color": colour},
            text=[f"{value:.2f}" for value in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{x}}: {name} %{{y:.3f}}<extra></extra>",
            meta={"columns": {"x": "method", "y": name}},
        )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title_text="area", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": 1.04, "yanchor": "bottom", "x": 0}, margin={"t": 40})
    return describe(
        figure,
        "CPR and CMD",
        "CPR (indigo, higher is better): the area under faithfulness over the share of edges, edges ranked by signed "
        "effect. CMD (amber, lower is better): the area between faithfulness and 1, ranked by absolute effect. The "
        "best CMD first; last, the mean of random rankings.",
    )
