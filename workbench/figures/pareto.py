"""What sparsity costs: a point for every sparse autoencoder, and the best of them joined."""

from collections.abc import Sequence

import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")


def pareto(names: Sequence[str], groups: Sequence[str], points: Sequence[tuple[float | int, float | int]]) -> go.Figure:
    """SAEs by `points` (L0, loss recovered). One colour and symbol a group; a line joins those that none betters."""
    figure = blank(height=420, showlegend=True)
    best = front(points)
    figure.add_scatter(
        x=[points[i][0] for i in best],
        y=[points[i][1] for i in best],
        mode="lines",
        name="not bettered",
        line={"width": 1, "dash": "dot"},
        hoverinfo="skip",
        meta={"columns": {"x": "L0", "y": "loss recovered"}},
    )
    for number, group in enumerate(dict.fromkeys(groups)):
        members = [i for i, one in enumerate(groups) if one == group]
        figure.add_scatter(
            x=[points[i][0] for i in members],
            y=[points[i][1] for i in members],
            mode="markers",
            name=label(group),
            marker={"size": 9, "symbol": SYMBOLS[number % len(SYMBOLS)]},
            customdata=[label(names[i]) for i in members],
            hovertemplate="<b>%{customdata}</b><br>L0 %{x:.1f}, loss recovered %{y:.2%}<extra></extra>",
            meta={"columns": {"x": "L0", "y": "loss recovered", "customdata": "SAE"}},
        )
    figure.update_xaxes(title_text="active latents per token (L0, log)", type="log")
    values = [y for _, y in points]
    close = bool(values) and max(values) - min(values) < 0.1
    figure.update_yaxes(title_text="loss recovered", tickformat=".1%" if close else ".0%")
    return describe(
        figure,
        "Sparsity and loss",
        "Each point is a sparse autoencoder. x: mean number of active latents per token (L0), on a log scale. y: loss "
        "recovered, (zero - spliced) / (zero - clean) in cross-entropy: 100% if splicing it in costs the model "
        "nothing, 0% if that is no better than zeros. Up and to the left is better; the dotted line joins those that "
        "no other betters in both.",
    )


def front(points: Sequence[tuple[float | int, float | int]]) -> list[int]:
    """The points that none betters: no other has both a smaller or equal x and a larger or equal y. By x, ascending."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not kept or points[i][1] > points[kept[-1]][1]:
            kept.append(i)
    return kept
