"""Grokking: how the losses went, and the circles on which a model has put the numbers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from workbench.figures.frame import blank, describe
from workbench.figures.theme import AMBER, GREY, INDIGO, LIGHT, ROSE

if TYPE_CHECKING:
    from workbench.grokking.progress import Progress

PHASES = {"memorisation": ROSE, "circuit formation": INDIGO, "cleanup": AMBER}
WRITTEN = 61
"""Up to this many numbers are written around their circle."""
PHASES_READING = (
    "Shaded: memorisation, until the loss without the key frequencies is least; circuit formation, until the test loss "
    "has fallen to half of its peak; cleanup, until it is within ten times its least."
)


def losses(progress: "Progress") -> go.Figure:
    """Training and test loss, with the phases."""
    figure = blank(height=340, showlegend=True, margin_t=26)
    _lines(figure, progress, {"training": ("train_loss", GREY), "test": ("test_loss", INDIGO)})
    _phases(figure, progress)
    return describe(
        figure,
        "Grokking",
        "x: training steps. y: loss in nats a sum, on a log scale: of the sums that are trained on, and of all others. "
        f"{PHASES_READING} Dotted: the loss of guessing.",
    )


def measures(progress: "Progress") -> go.Figure:
    """The progress measures beside the test loss: losses above, concentration and weights below."""
    figure = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.5, 0.25, 0.25])
    figure.update_layout(template=LIGHT, height=620, showlegend=True, margin_t=26)
    curves = {
        "test": ("test_loss", GREY),
        "restricted": ("restricted_loss", INDIGO),
        "excluded": ("excluded_loss", ROSE),
        "cosines alone": ("trig_loss", AMBER),
    }
    _lines(figure, progress, curves, row=1, col=1)
    shares = {"variance by cosines": ("explained", AMBER), "embedding, Gini": ("embedding_gini", INDIGO)}
    shares |= {"neurons to logits, Gini": ("neuron_logit_gini", ROSE)}
    for name, (field, colour) in shares.items():
        _line(figure, progress, name, field, colour, row=2, col=1, legend="legend2")
    _line(figure, progress, "squares of the weights", "weight_norm", GREY, row=3, col=1, legend="legend3")
    figure.update_yaxes(title_text="0 to 1", range=[0, 1.02], row=2)
    figure.update_yaxes(title_text="sum", rangemode="tozero", row=3)
    figure.update_xaxes(title_text="", row=1)
    figure.update_xaxes(title_text="training steps", row=3)
    _phases(figure, progress)
    for row in (1, 2, 3):  # a legend beside each panel
        top = figure.layout[f"yaxis{row}" if row > 1 else "yaxis"].domain[1]
        figure.update_layout({f"legend{row}" if row > 1 else "legend": {"y": top, "yanchor": "top"}})
    keys = ", ".join(map(str, progress.keys)) or "none"
    return describe(
        figure,
        "Progress measures",
        f"x: training steps. Key frequencies, those of the last checkpoint: {keys}. Top, loss in nats: restricted, on "
        "test sums, with only the key frequencies' waves of a + b in the logits; excluded, on training sums, without "
        "them; cosines alone, on test sums, with only cos(w(a + b - c)). Middle: the share of the logits' variance "
        "that those cosines explain, and how unevenly the norms of the embedding, and of the map from neurons to "
        f"logits, are spread over frequencies (Gini: 0 evenly, 1 all on one). Bottom: the sum of all weights' squares. "
        f"{PHASES_READING} Dotted: the loss of guessing.",
    )


def spectrum(progress: "Progress") -> go.Figure:
    """The norm of the embedding at each frequency, over the training."""
    figure = blank(height=340, margin_t=26)
    n = progress.embedding.shape[1]
    figure.add_heatmap(
        x=progress.step.numpy(),
        y=np.arange(1, n + 1),
        z=progress.embedding.T.float().numpy(),
        zmin=0,
        hovertemplate="frequency %{y} at step %{x:,}: %{z:.3f}<extra></extra>",
        colorbar={"title": {"text": "norm"}},
        meta={"columns": {"x": "step", "y": "frequency", "z": "norm"}},
    )
    figure.update_xaxes(title_text="training steps", showgrid=False, ticks="")
    ticks = sorted(progress.keys) or [1, n]
    figure.update_yaxes(title_text="frequency", showgrid=False, ticks="", tickvals=ticks)
    return describe(
        figure,
        "Fourier spectrum of the embedding",
        "x: training steps. y: frequency k; the numbers written are the key frequencies of the last checkpoint. "
        "Colour: the norm of the parts cos(2πka/p) and sin(2πka/p) of the embedding of the numbers a.",
    )


def circles(planes: Mapping[int, Float[np.ndarray, "p 2"]]) -> go.Figure:
    """The numbers in the plane where the embedding turns with a frequency, a panel each; `planes` is by frequency.

    A line goes round in the order of the angles 2πka/p.
    """
    titles = [f"frequency {k}" for k in planes]
    figure = make_subplots(1, len(planes), subplot_titles=titles, horizontal_spacing=0.03)
    figure.update_layout(template=LIGHT, height=60 + 840 // max(3, len(planes)), margin_t=28)
    size = max((np.hypot(*points.T).max() for points in planes.values()), default=1.0)
    for column, (k, points) in enumerate(planes.items(), start=1):
        p = len(points)
        order = np.argsort(k * np.arange(p) % p, kind="stable")[np.arange(p + 1) % p]
        figure.add_scatter(
            x=points[order, 0],
            y=points[order, 1],
            mode="lines",
            line={"color": GREY, "width": 1},
            opacity=0.5,
            hoverinfo="skip",
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers",
            marker={"color": np.arange(p), "colorscale": [[0, INDIGO], [0.5, AMBER], [1, ROSE]], "size": 7},
            text=np.arange(p),
            hovertemplate="%{text}<extra></extra>",
            row=1,
            col=column,
            meta={"columns": {"x": "cos", "y": "sin", "text": "number"}},
        )
        if p <= WRITTEN:
            angles = 2 * np.pi * k / p * np.arange(p)
            figure.add_scatter(
                x=1.14 * size * np.cos(angles),
                y=1.14 * size * np.sin(angles),
                mode="text",
                text=np.arange(p),
                textfont={"size": 9, "color": GREY},
                hoverinfo="skip",
                row=1,
                col=column,
            )
    shown = {"range": [-1.25 * size, 1.25 * size], "showticklabels": False, "showgrid": False, "zeroline": False}
    figure.update_xaxes(**shown)
    figure.update_yaxes(**shown)
    for column in range(1, len(planes) + 1):
        figure.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", constrain="domain", row=1, col=column)
        figure.update_xaxes(constrain="domain", row=1, col=column)
    return describe(
        figure,
        "The embedding on its circles",
        "Each panel: the embedding of the numbers 0 to p-1, projected onto the two orthonormal directions that span "
        "its cos and sin parts of one frequency. Colour: the number, from indigo (0) over amber to rose (p-1). The "
        "line goes round in the order of the angles 2πka/p, at which the numbers are written around it.",
    )


def _lines(figure: go.Figure, progress: "Progress", curves: Mapping[str, tuple[str, str]], **panel: int) -> None:
    """Losses on a log scale, with the loss of guessing."""
    for name, (field, colour) in curves.items():
        _line(figure, progress, name, field, colour, **panel)
    figure.add_scatter(
        x=progress.step[[0, -1]].numpy(),
        y=[np.log(progress.setting.p)] * 2,
        mode="lines",
        name="guessing",
        line={"color": GREY, "width": 1, "dash": "dot"},
        hovertemplate="guessing: %{y:.3g}<extra></extra>",
        **panel,
    )
    figure.update_yaxes(title_text="loss (nats)", type="log", exponentformat="power", dtick=2, **panel)
    figure.update_xaxes(title_text="training steps", **panel)


def _line(
    figure: go.Figure, progress: "Progress", name: str, field: str, colour: str, legend: str = "legend", **panel: int
) -> None:
    figure.add_scatter(
        x=progress.step.numpy(),
        y=getattr(progress, field).numpy(),
        mode="lines",
        name=name,
        line={"color": colour},
        legend=legend,
        hovertemplate=f"{name} at step %{{x:,}}: %{{y:.3g}}<extra></extra>",
        meta={"columns": {"x": "step", "y": field}},
        **panel,
    )


def _phases(figure: go.Figure, progress: "Progress") -> None:
    """Shade the phases that have ended, and name them over the top of the figure."""
    phases = progress.phases
    begin = 0
    for (name, colour), end in zip(PHASES.items(), (phases.memorised, phases.formed, phases.cleaned), strict=True):
        if end is None:
            return
        figure.add_vrect(x0=begin, x1=end, fillcolor=colour, opacity=0.1, line_width=0, layer="below")
        figure.add_annotation(
            x=(begin + end) / 2, y=1, yref="paper", yanchor="bottom", text=name, font={"color": colour}, showarrow=False
        )
        begin = end
