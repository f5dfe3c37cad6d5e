"""Dose and response: what steering brings about, above what it costs."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.frame import describe
from workbench.figures.text import label
from workbench.figures.theme import AMBER, GREY, INDIGO, LIGHT, ROSE

if TYPE_CHECKING:
    from workbench.dose import DoseResponse


def figure(result: "DoseResponse") -> go.Figure:
    """The effect above, the rise in loss below, at every dose; the chosen dose is marked in both."""
    picture = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.56, 0.44])
    picture.update_layout(template=LIGHT, height=440, margin={"l": 8, "r": 24, "t": 24, "b": 8})
    _effect(picture, result)
    _cost(picture, result)
    picture.update_xaxes(zeroline=False)
    picture.update_xaxes(title_text=f"dose ({result.how})", row=2)
    if result.chosen is not None:
        _mark(picture, result, result.chosen)
    return describe(
        picture,
        f"Steering towards {label(result.direction.name)}",
        f"x: the dose of the direction at {result.direction.site}; 1 is the distance between the two kinds of examples "
        f"that it was made from. Above: {label(result.effect)}, the mean of {result.values.shape[1]} prompts with its "
        "95% interval; the dotted line is the model without steering. Below: how much the loss on "
        f"{result.damage.n_tokens:,} tokens of other text rises under the same edit, as a share of the plain loss; the "
        f"dotted line is the budget of {result.budget:.0%}. The amber line is the dose with the strongest effect "
        "within the budget.",
    )


def _effect(picture: go.Figure, result: "DoseResponse") -> None:
    low, high = (bound.tolist() for bound in result.interval)
    doses, form = list(result.doses), ".0%" if result.is_rate else ".2f"
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "row": 1, "col": 1}
    picture.add_scatter(x=doses, y=high, **band, meta={"columns": {"x": "dose", "y": "interval, upper end"}})
    picture.add_scatter(
        x=doses,
        y=low,
        **band,
        fill="tonexty",
        fillcolor=_faint(INDIGO),
        meta={"columns": {"x": "dose", "y": "interval, lower end"}},
    )
    picture.add_scatter(
        x=doses,
        y=result.response.tolist(),
        mode="lines+markers",
        line={"color": INDIGO, "width": 2},
        hovertemplate=f"dose %{{x:.2f}}: %{{y:{form}}}<extra></extra>",
        meta={"columns": {"x": "dose", "y": result.effect}},
        row=1,
        col=1,
    )
    plain = result.plain_values.mean().item()
    picture.add_hline(y=plain, line={"width": 1, "dash": "dot", "color": GREY}, row=1, col=1)
    spread = {"tickformat": ".0%", "range": [-0.02, 1.04]} if result.is_rate else {}
    picture.update_yaxes(title_text=label(result.effect), row=1, **spread)


def _cost(picture: go.Figure, result: "DoseResponse") -> None:
    rise = result.rise.tolist()
    picture.add_scatter(
        x=list(result.doses),
        y=rise,
        customdata=list(zip(result.damage.loss.tolist(), result.damage.kl.tolist(), strict=True)),
        mode="lines+markers",
        line={"color": ROSE, "width": 2},
        hovertemplate="dose %{x:.2f}: %{y:+.1%}, loss %{customdata[0]:.3f}, KL %{customdata[1]:.3f}<extra></extra>",
        meta={"columns": {"x": "dose", "y": "rise in loss", "customdata": ["loss", "KL"]}},
        row=2,
        col=1,
    )
    picture.add_hline(y=result.budget, line={"width": 1, "dash": "dot", "color": GREY}, row=2, col=1)
    top = min(max(rise), 8 * result.budget)
    picture.update_yaxes(title_text="rise in loss", tickformat="+.0%", range=[-0.05 * top, 1.08 * top], row=2)


def _mark(picture: go.Figure, result: "DoseResponse", chosen: int) -> None:
    dose, value = result.doses[chosen], result.response[chosen].item()
    shown = f"{value:.0%}" if result.is_rate else f"{value:.2f}"
    picture.add_vline(x=dose, line={"width": 1.5, "color": AMBER})
    for row, (y, text) in enumerate(((value, shown), (result.rise[chosen].item(), f"{result.rise[chosen]:+.1%}")), 1):
        picture.add_scatter(
            x=[dose],
            y=[y],
            mode="markers+text",
            marker={"size": 10, "color": AMBER},
            text=[f" {text}"],
            textposition="bottom right" if row == 1 else "top left",
            hoverinfo="skip",
            meta={"columns": {"x": "chosen dose", "y": "value"}},
            row=row,
            col=1,
        )


def _faint(colour: str) -> str:
    """A hue thin enough to lie behind a line, on either ground."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
