"""How the loss falls along a context."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.theme import AMBER, GREY, INDIGO

if TYPE_CHECKING:
    from workbench.in_context import InContext


def figure(result: "InContext") -> go.Figure:
    """Loss by position, with its interval, and the two positions that the score compares."""
    loss, margin = result.loss[1:].numpy(), np.nan_to_num(result.loss_margin[1:].numpy())
    position = np.arange(1, len(loss) + 1)
    picture = blank(height=320)
    picture.add_scatter(
        x=np.concatenate([position, position[::-1]]),
        y=np.concatenate([loss + margin, (loss - margin)[::-1]]),
        fill="toself",
        fillcolor=INDIGO,
        opacity=0.2,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
    )
    picture.add_scatter(
        x=position,
        y=loss,
        mode="lines",
        line={"color": INDIGO, "width": 1.5},
        customdata=margin,
        hovertemplate="position %{x}: %{y:.3f} ± %{customdata:.3f} nats<extra></extra>",
        meta={"columns": {"x": "position", "y": "loss", "customdata": "margin"}},
    )
    ends = [result.early, result.late]
    picture.add_scatter(
        x=ends,
        y=result.loss[ends].numpy(),
        mode="markers+text",
        marker={"color": AMBER, "size": 9},
        text=["early", "late"],
        textposition="top center",
        textfont={"color": GREY},
        hovertemplate="%{text}, position %{x}: %{y:.3f} nats<extra></extra>",
        cliponaxis=False,
    )
    picture.update_xaxes(title_text="position in the context")
    picture.update_yaxes(title_text="loss (nats)", rangemode="tozero")
    return describe(
        picture,
        f"Loss by position: score {result.score:.2f} ± {result.score_margin:.2f} nats",
        f"x: position of the predicted token in its context. y: mean loss on it, in nats, over {result.contexts} "
        f"contexts of {result.corpus}; shaded: 95% interval. The in-context learning score is the loss at the late "
        "position minus that at the early one: the lower, the more the model makes use of what it has read.",
    )
