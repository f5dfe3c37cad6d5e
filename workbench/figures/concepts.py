"""How well sparse autoencoders find concepts that are known to be there."""

from collections.abc import Mapping

import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label
from workbench.figures.theme import GREY

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


def scores(f1: Mapping[str, Mapping[str, float]], covered: float = 0.8) -> go.Figure:
    """The best F1 of every concept, of each SAE: `f1[SAE][concept]`. A concept is covered from `covered` on.

    Concepts are in the order of the best of all SAEs, the best on top; a line spans what one has and another has not.
    """
    concepts = sorted({name for one in f1.values() for name in one}, key=lambda name: -_best(f1, name))
    figure = blank(height=90 + 17 * len(concepts), showlegend=True)
    spans: tuple[list[float | None], list[int | None]] = ([], [])
    for row, concept in enumerate(concepts):
        values = [one[concept] for one in f1.values() if concept in one]
        spans[0].extend((min(values), max(values), None))
        spans[1].extend((row, row, None))
    figure.add_scatter(
        x=spans[0], y=spans[1], mode="lines", line={"width": 1, "color": GREY}, hoverinfo="skip", showlegend=False
    )
    for number, (name, one) in enumerate(f1.items()):
        rows = [row for row, concept in enumerate(concepts) if concept in one]
        figure.add_scatter(
            x=[one[concepts[row]] for row in rows],
            y=rows,
            mode="markers",
            name=label(name),
            marker={"size": 8, "symbol": SYMBOLS[number % len(SYMBOLS)]},
            customdata=[label(concepts[row]) for row in rows],
            hovertemplate="<b>%{customdata}</b> F1 %{x:.2f}<extra></extra>",
            meta={"columns": {"x": "F1", "customdata": "concept"}},
        )
    figure.add_vline(x=covered, line={"width": 1, "dash": "dot", "color": GREY})
    figure.update_xaxes(title_text="best F1 of a latent", range=[-0.02, 1.02], side="top")
    figure.update_yaxes(
        tickvals=list(range(len(concepts))),
        ticktext=[label(concept.replace("_", " ")) for concept in concepts],
        range=[len(concepts) - 0.5, -0.5],
        ticks="",
        showgrid=False,
        zeroline=False,
    )
    return describe(
        figure,
        "Concepts found",
        "y: concepts of the text, the best found on top. x: F1 of the latent that detects the concept best, at its "
        f"best threshold, on tokens that neither was chosen on. From the dotted line on, at {covered:g}, a concept "
        "counts as covered.",
    )


def _best(f1: Mapping[str, Mapping[str, float]], concept: str) -> float:
    return max(one.get(concept, 0.0) for one in f1.values())
