"""How a training went."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label


def curves(runs: Mapping[str, Sequence[Mapping[str, float | int]]], measure: str = "fvu") -> go.Figure:
    """A measure of metrics.jsonl against the tokens read: a line for each run, whose lines `runs` holds by its name."""
    figure = blank(height=320, showlegend=True)
    for name, lines in runs.items():
        figure.add_scatter(
            x=[line["tokens"] for line in lines],
            y=[line[measure] for line in lines],
            mode="lines",
            name=label(name),
            hovertemplate="%{x:,} tokens: %{y:.3g}<extra></extra>",
            meta={"columns": {"x": "tokens", "y": measure}},
        )
    figure.update_xaxes(title_text="tokens", rangemode="tozero")
    figure.update_yaxes(title_text=MEASURES[measure], type="log" if measure in ("fvu", "loss") else "linear")
    return describe(
        figure,
        "Training",
        f"x: tokens read. y: {MEASURES[measure]}, of the batch of that step.",
    )


MEASURES = {
    "fvu": "variance unexplained",
    "loss": "loss",
    "l0": "active latents per token (L0)",
    "dead": "dead latents (fraction)",
}
