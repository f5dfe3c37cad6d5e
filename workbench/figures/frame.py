"""What every figure carries besides its marks: a title, how to read it, and where its numbers come from."""

import plotly.graph_objects as go

from workbench.figures.theme import LIGHT


def blank(height: int, **layout: object) -> go.Figure:
    """An empty figure in the house template."""
    return go.Figure(layout={"template": LIGHT, "height": height, **layout})


def nothing() -> go.Figure:
    """A figure that shows nothing, on any ground: what stands where a result is not there yet, or never will be."""
    clear = "rgba(0,0,0,0)"
    hidden = {"visible": False}
    return go.Figure(layout={"paper_bgcolor": clear, "plot_bgcolor": clear, "xaxis": hidden, "yaxis": hidden})


def describe(figure: go.Figure, title: str, reading: str) -> go.Figure:
    """Note in the figure itself what it shows and what its axes, colours and denominators mean.

    The dashboard shows `reading` behind the "?" of the figure's panel, and both travel with every export.
    """
    return figure.update_layout(meta={"title": title, "reading": reading})


def reading(figure: go.Figure) -> str:
    """How to read `figure`, as noted by `describe`."""
    return (figure.layout.meta or {}).get("reading", "")


def title(figure: go.Figure) -> str:
    """The title of `figure`, as noted by `describe`."""
    return (figure.layout.meta or {}).get("title", "")
