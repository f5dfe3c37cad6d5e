"""Training dynamics: curves over checkpoints, one panel above the other."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.frame import describe
from workbench.figures.text import label
from workbench.figures.theme import AMBER, GREY, INDIGO, LIGHT, ROSE

if TYPE_CHECKING:
    from workbench.dynamics import Dynamics

KINDS = {"previous_token": ROSE, "induction": INDIGO}
PANEL = 165


def curves(result: "Dynamics", log_x: bool = False) -> go.Figure:
    """Heads, loss on repeated tokens, in-context learning and tasks; the rise of the best induction head is shaded.

    `log_x`: checkpoints on a log scale, on which the first, at 0, has no place.
    """
    titles = ["attention of each head", "loss on random tokens", "in-context learning", "task accuracy"]
    titles = titles if result.study.tasks else titles[:3]
    figure = make_subplots(len(titles), 1, shared_xaxes=True, vertical_spacing=0.2 / len(titles), subplot_titles=titles)
    figure.update_layout(template=LIGHT, height=60 + PANEL * len(titles), margin_t=28, showlegend=True)
    _heads(figure, result)
    _line(figure, result, 2, result.curve("first_loss").numpy(), "first time", GREY)
    _line(figure, result, 2, result.curve("second_loss").numpy(), "repeated", INDIGO)
    _score(figure, result)
    for number, task in enumerate(result.study.tasks):
        _line(
            figure,
            result,
            4,
            result.task(task).numpy(),
            label(Path(task).stem),
            (INDIGO, AMBER, ROSE, GREY)[number % 4],
        )
    figure.update_yaxes(title_text="score", range=[-0.03, 1.03], row=1)
    figure.update_yaxes(title_text="nats", rangemode="tozero", row=2)
    figure.update_yaxes(title_text="nats", row=3)
    if result.study.tasks:
        figure.update_yaxes(title_text="accuracy", range=[-0.03, 1.03], tickformat=".0%", row=4)
    figure.update_xaxes(type="log" if log_x else "linear", exponentformat="SI")
    figure.update_xaxes(title_text=result.unit, row=len(titles))
    if change := result.rise("induction"):
        figure.add_vrect(x0=change.begin, x1=change.end, fillcolor=AMBER, opacity=0.14, line_width=0, layer="below")
    for row in range(1, len(titles) + 1):  # a legend beside each panel
        top = figure.layout[f"yaxis{row}" if row > 1 else "yaxis"].domain[1]
        figure.update_layout({f"legend{row}" if row > 1 else "legend": {"y": top, "yanchor": "top"}})
    return describe(
        figure,
        "Training dynamics",
        f"x: {result.unit} of training. Heads: mean attention, 0 to 1, on the stripes of sequences of random tokens "
        "repeated once; indigo: on the token that followed the earlier copy (induction), rose: on the token before; a "
        "line each head, the best ones strong. Loss on random tokens: on their first copy, which nothing predicts, and "
        f"on the repeat. In-context learning: loss at a late minus that at an early position of contexts of "
        f"{result.study.corpus}, with its 95% interval. Amber: while the best induction score goes from 10% to 90%.",
    )


def _heads(figure: go.Figure, result: "Dynamics") -> None:
    for kind, colour in KINDS.items():
        scores = result.heads(kind).numpy()
        best = np.unravel_index(scores[-1].argmax(), scores.shape[1:])
        for layer, head in np.ndindex(scores.shape[1:]):
            leads = (layer, head) == best
            name = f"L{layer}H{head} {kind.replace('_', ' ')}"
            figure.add_scatter(
                x=result.at,
                y=scores[:, layer, head],
                mode="lines",
                name=name,
                showlegend=leads,
                line={"color": colour, "width": 2.2 if leads else 1},
                opacity=1 if leads else 0.35,
                hovertemplate=f"{name} at %{{x:,}}: %{{y:.3f}}<extra></extra>",
                meta={"columns": {"x": result.unit, "y": name}},
                row=1,
                col=1,
            )


def _score(figure: go.Figure, result: "Dynamics") -> None:
    score = result.curve("in_context").numpy()
    margin = np.nan_to_num(result.curve("in_context_margin").numpy())
    figure.add_scatter(
        x=[*result.at, *result.at[::-1]],
        y=np.concatenate([score + margin, (score - margin)[::-1]]),
        fill="toself",
        fillcolor=INDIGO,
        opacity=0.2,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        row=3,
        col=1,
    )
    _line(figure, result, 3, score, "score", INDIGO)


def _line(figure: go.Figure, result: "Dynamics", row: int, values: np.ndarray, name: str, colour: str) -> None:
    figure.add_scatter(
        x=result.at,
        y=values,
        mode="lines",
        name=name,
        line={"color": colour},
        legend=f"legend{row}",
        hovertemplate=f"{name} at %{{x:,}}: %{{y:.3f}}<extra></extra>",
        meta={"columns": {"x": result.unit, "y": name}},
        row=row,
        col=1,
    )
