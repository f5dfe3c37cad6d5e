"""Heads by their weights: a score of every head, the strongest pairs of a circuit, the spectrum of OV."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.figures.flow import DIVERGING
from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten
from workbench.figures.theme import INDIGO, ROSE

if TYPE_CHECKING:
    from workbench.head_circuits import HeadCircuit, OVSpectrum
    from workbench.head_tables import HeadTable


def table(result: "HeadTable") -> go.Figure:
    """One score of every head, layers downwards and heads across."""
    from workbench.head_tables import SCORES

    score, values = SCORES[result.name], result.values.numpy()
    n_layers, n_heads = values.shape
    signed = score.low is not None and score.low < 0
    figure = blank(height=44 + 30 * n_layers)
    figure.add_heatmap(
        z=values,
        zmin=score.low,
        zmax=score.high,
        **({"colorscale": DIVERGING} if signed else {}),
        showscale=False,
        xgap=2,
        ygap=2,
        text=values,
        texttemplate="%{text:.2f}" if n_heads <= 16 else None,
        textfont={"size": 11},
        hovertemplate="L%{y}H%{x}: %{z:.3f}<extra></extra>",
        meta={"columns": {"x": "head", "y": "layer", "z": result.name}},
    )
    axis = {"dtick": 1, "showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(**axis, side="top", tickprefix="H")
    figure.update_yaxes(**axis, autorange="reversed", tickprefix="L")
    return describe(
        figure,
        result.name.replace("_", " ").capitalize(),
        f"Rows: layers. Columns: heads. Colour and number: {score.means}.",
    )


def pairs(result: "HeadCircuit") -> go.Figure:
    """The pairs of tokens with the highest and lowest entries of a circuit."""
    strongest = [*_triples(result.top), *reversed(_triples(result.bottom))]
    names = [f"{label(shorten(row, 14))} → {label(shorten(column, 14))}" for _, row, column in strongest]
    figure = blank(height=60 + 20 * len(strongest))
    figure.add_bar(
        x=[value for value, _, _ in strongest],
        y=list(range(len(strongest))),
        orientation="h",
        marker={"color": [INDIGO if value >= 0 else ROSE for value, _, _ in strongest]},
        customdata=names,
        hovertemplate="<b>%{customdata}</b> %{x:+.2f}<extra></extra>",
        meta={
            "columns": {
                "y": {"from": [row for _, row, _ in strongest], "to": [column for _, _, column in strongest]},
                "x": "score" if result.kind == "qk" else "logit effect",
            }
        },
    )
    figure.update_yaxes(
        tickvals=list(range(len(strongest))), ticktext=names, autorange="reversed", showgrid=False, ticks=""
    )
    what = "score before the softmax" if result.kind == "qk" else "effect on the logit"
    figure.update_xaxes(title_text=what, zeroline=True)
    if result.kind == "qk":
        means = f"query → key, the key {result.offset} back. x: the score with which the head looks from one to another"
    else:
        means = "token looked at → token predicted. x: what looking at the one adds to the logit of the other"
    return describe(
        figure,
        f"{result.kind.upper()} circuit of L{result.layer}H{result.head}",
        f"y: pairs of tokens of the whole vocabulary, the highest above and the lowest below: {means}. Of "
        f"{result.diagonal:.0%} of tokens the largest entry is their own.",
    )


def _triples(found) -> list[tuple[float, str, str]]:
    return list(zip(found.values.tolist(), found.row_strings, found.column_strings, strict=True))


def spectrum(result: "OVSpectrum") -> go.Figure:
    """The singular values of OV, with what the first directions read and write."""
    values = result.values.numpy()
    readings = [
        f"reads {', '.join(map(label, read))}<br>writes {', '.join(map(label, written))}"
        for read, written in zip(result.read_strings, result.written_strings, strict=True)
    ]
    figure = blank(height=280)
    figure.add_bar(
        x=list(range(len(values))),
        y=values,
        marker={"color": INDIGO},
        customdata=readings + [""] * (len(values) - len(readings)),
        hovertemplate="direction %{x}: %{y:.3f}<br>%{customdata}<extra></extra>",
        meta={"columns": {"x": "direction", "y": "singular value"}},
    )
    figure.update_xaxes(title_text="direction", showgrid=False)
    figure.update_yaxes(title_text="singular value", rangemode="tozero")
    return describe(
        figure,
        f"OV spectrum of L{result.layer}H{result.head}",
        "x: singular directions of what the head makes of what it looks at. y: how strongly. About "
        f"{result.participation:.1f} of {len(values)} directions carry it. Hover the first for the tokens that they "
        "read and write.",
    )
