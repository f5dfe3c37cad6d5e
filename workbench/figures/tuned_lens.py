"""What a tuned lens gains over the logit lens, layer by layer."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.theme import GREY, INDIGO

if TYPE_CHECKING:
    from workbench.lens_kl import LensKL


def kl_by_layer(result: "LensKL") -> go.Figure:
    """Mean KL of both lenses after each layer but the last, which both read as the model does."""
    figure = blank(height=340, showlegend=True)
    lenses = {
        "logit lens": (result.logit, {"color": GREY, "dash": "dot"}),
        "tuned lens": (result.tuned, {"color": INDIGO}),
    }
    for name, (values, line) in lenses.items():
        figure.add_scatter(
            x=result.labels,
            y=values,
            mode="lines+markers",
            name=name,
            line=line,
            hovertemplate=f"{name}, %{{x}}: %{{y:.3f}} nats<extra></extra>",
            meta={"columns": {"x": "layer", "y": f"KL of the {name}"}},
        )
    figure.update_xaxes(title_text="after layer", type="category", showgrid=False)
    figure.update_yaxes(title_text="KL to the final distribution (nats, log)", type="log", dtick=1)
    figure.update_layout(legend={"x": 0.99, "xanchor": "right", "y": 0.99, "yanchor": "top"})
    return describe(
        figure,
        "Tuned lens and logit lens",
        "x: the layer whose residual stream is read; 'embed' is before the first. y: KL(final ‖ layer), in nats a "
        f"token, on a log scale, mean over {result.tokens:,} tokens of {result.text}: what is lost by reading that "
        "layer in place of the model's own prediction. Lower is better.",
    )
