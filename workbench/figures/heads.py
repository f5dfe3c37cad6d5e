"""Scores of heads: layer × head, one kind of score a figure."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.figures.frame import blank, describe

if TYPE_CHECKING:
    from workbench.heads import HeadScores

READINGS = {
    "previous_token": "the token just before",
    "duplicate_token": "the earlier copy of the same token",
    "induction": "the token that followed the earlier copy",
}
"""What a head with a score of 1 looks at."""


def scores(result: "HeadScores", kind: str) -> go.Figure:
    """One score of every head. `kind` is a key of `READINGS`."""
    values = getattr(result, kind).numpy()
    n_layers, n_heads = values.shape
    figure = blank(height=44 + 30 * n_layers)
    figure.add_heatmap(
        z=values,
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=2,
        ygap=2,
        text=values,
        texttemplate="%{text:.2f}" if n_heads <= 16 else None,
        textfont={"size": 11},
        hovertemplate="L%{y}H%{x}: %{z:.3f}<extra></extra>",
        meta={"columns": {"x": "head", "y": "layer", "z": kind}},
    )
    figure.update_xaxes(dtick=1, showgrid=False, zeroline=False, ticks="", side="top", fixedrange=True, tickprefix="H")
    figure.update_yaxes(
        dtick=1, showgrid=False, zeroline=False, ticks="", autorange="reversed", fixedrange=True, tickprefix="L"
    )
    return describe(
        figure,
        f"{kind.replace('_', ' ').capitalize()} score",
        f"Rows: layers. Columns: heads. Colour and number: mean attention, 0 to 1, that the head pays to "
        f"{READINGS[kind]}, over {result.batch} sequences of {result.length} random tokens repeated once.",
    )
