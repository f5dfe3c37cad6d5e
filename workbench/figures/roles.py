"""Roles of heads: a map of layers and heads, coloured by role, and the effects of every step that led there."""

from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.figures.cells import AROUND_ZERO, heatmap
from workbench.figures.frame import blank, describe
from workbench.figures.theme import AMBER, GREY, INDIGO, ROSE

if TYPE_CHECKING:
    from circuits.ioi.roles import HeadRole, IOIRoles

TEAL, GREEN, VIOLET = "#2a9d8f", "#6a994e", "#9467bd"
LOOKS = {
    "name mover": (INDIGO, "circle"),
    "backup name mover": (INDIGO, "circle-open"),
    "negative name mover": (ROSE, "circle"),
    "S suppressor": (ROSE, "square"),
    "S-inhibition": (AMBER, "square"),
    "duplicate token": (TEAL, "diamond"),
    "induction": (GREEN, "diamond"),
    "current token": (TEAL, "diamond-open"),
    "previous token": (VIOLET, "triangle-up"),
}
"""Colour and sign of each role; roles that are kin share a colour."""


def figure(result: "IOIRoles") -> go.Figure:
    """Every head, those with a role in its colour; of a head with several, the signs lie side by side."""
    n_layers, n_heads = next(iter(result.evidence.by_name.values())).shape
    picture = blank(height=130 + 44 * n_layers, showlegend=True, legend={"itemsizing": "constant"})
    everywhere = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    picture.add_scatter(
        x=[head for _, head in everywhere],
        y=[layer for layer, _ in everywhere],
        mode="markers",
        marker={"color": GREY, "size": 6, "opacity": 0.35},
        text=[f"L{layer}H{head}" for layer, head in everywhere],
        hovertemplate="<b>%{text}</b><br>no role<extra></extra>",
        showlegend=False,
    )
    for role, (colour, symbol) in LOOKS.items():
        if own := [one for one in result.roles if one.role == role]:
            picture.add_scatter(
                x=[one.head + _aside(result, one) for one in own],
                y=[one.layer for one in own],
                name=role,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 22, "line": {"width": 3, "color": colour}},
                text=[_hover(one) for one in own],
                hovertemplate="%{text}<extra></extra>",
                meta={"columns": {"x": {"head": [one.name for one in own], "effect": [one.effect for one in own]}}},
            )
    ticks = {"showgrid": False, "zeroline": False, "ticks": "", "dtick": 1}
    picture.update_xaxes(**ticks, tickprefix="H", side="top", range=[-0.6, n_heads - 0.4])
    picture.update_yaxes(**ticks, tickprefix="L", range=[n_layers - 0.4, -0.6])
    return describe(
        picture,
        f"Roles of heads in {result.task}",
        "Rows: layers. Columns: heads. A sign is a head with a role, found by path patching; the hover says what it "
        f"does to the logit difference ({result.clean.mean():.2f}, mean of {len(result.clean)} prompts) and what else "
        "speaks for the role. Grey points are heads without one.",
    )


def step(result: "IOIRoles", receivers: str) -> go.Figure:
    """The effect of the paths from every head to some receivers, a key of `result.steps`."""
    return describe(
        heatmap(result.steps[receivers]),
        f"Paths to {receivers}",
        f"Each cell: the paths from one head to {receivers} patched with what they carry when all names are others. "
        f"Effect: the change of the logit difference, as a share of the whole model's ({result.clean.mean():.2f}, mean "
        f"of {len(result.clean)} prompts). {AROUND_ZERO} In the hover: the 95% bootstrap interval.",
    )


def _aside(result: "IOIRoles", one: "HeadRole") -> float:
    """How far to the side of its head's column a sign lies."""
    same = [other.role for other in result.roles if (other.layer, other.head) == (one.layer, one.head)]
    return 0.26 * (same.index(one.role) - (len(same) - 1) / 2)


def _hover(one: "HeadRole") -> str:
    low, high = one.interval
    lines = [
        f"<b>{one.name}</b>  {escape(one.role)}{'' if one.confirmed else ', not confirmed'}",
        f"paths to {escape(one.step)}",
        f"effect {one.effect:+.1%}, 95% interval {low:+.1%} to {high:+.1%}",
    ]
    return "<br>".join([*lines, *(f"{escape(name)}  {value:.2f}" for name, value in one.evidence.items())])
