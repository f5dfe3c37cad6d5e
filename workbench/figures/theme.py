"""How every figure looks: two plotly templates, `workbench` and `workbench-dark`, that hold all the colours.

A figure names no colour of its own but the hues below, which hold on both grounds, so swapping the template is all
there is to a dark mode. A hue means the same everywhere: indigo is probability and attention, amber the activation of a
latent, rose what a latent suppresses, grey a guide for the eye.
"""

from dataclasses import dataclass

import plotly.graph_objects as go
import plotly.io as pio

LIGHT, DARK = "workbench", "workbench-dark"
GAMMA = 1.5
INDIGO, AMBER, ROSE, GREY = "#5f76dd", "#e0913a", "#d4587c", "#8a93a3"
SIGNED = [[0, ROSE], [0.5, "rgba(212,88,124,0.04)"], [0.5, "rgba(95,118,221,0.04)"], [1, INDIGO]]
"""A colour scale for numbers with a sign; its range must be even about zero."""
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """The colours of one theme. The same values stand in the dashboard's `variables.css`."""

    ink: str
    muted: str
    line: str
    surface: str
    indigo: tuple[str, ...]
    """Sequential scale, from the surface's own colour to the strongest."""
    diverging: tuple[str, ...]
    """From the strongest rose for what is below zero, through the surface's own colour, to the strongest indigo."""


LIGHT_PALETTE = Palette(
    ink="#1b1f27",
    muted="#5b6472",
    line="#e3e6eb",
    surface="#ffffff",
    indigo=("#f6f7fb", "#dfe4fa", "#b7c2f3", "#8799e8", "#5a70da", "#3b4fc0", "#293894"),
    diverging=("#8c1d43", "#d4587c", "#f0bccb", "#fafafc", "#b7c2f3", "#5a70da", "#293894"),
)
DARK_PALETTE = Palette(
    ink="#e6e9ef",
    muted="#98a2b3",
    line="#2a303b",
    surface="#171b22",
    indigo=("#1c212b", "#252e4d", "#33427c", "#4a5fb4", "#6f86de", "#a0b2f4", "#dbe3ff"),
    diverging=("#ffd3df", "#d4587c", "#5e2a3d", "#1a1e26", "#33427c", "#6f86de", "#dbe3ff"),
)
PALETTES = {LIGHT: LIGHT_PALETTE, DARK: DARK_PALETTE}


def scale(colours: tuple[str, ...]) -> list[list[float | str]]:
    """A plotly colour scale that spends more of its colours on low values, where most of a pattern lies."""
    return [[(index / (len(colours) - 1)) ** GAMMA, colour] for index, colour in enumerate(colours)]


def template(palette: Palette) -> go.layout.Template:
    """A plotly template drawn in `palette`."""
    axis = {
        "gridcolor": palette.line,
        "linecolor": palette.line,
        "zerolinecolor": palette.line,
        "tickcolor": palette.line,
        "tickfont": {"size": 11, "color": palette.muted},
        "title": {"font": {"size": 12, "color": palette.muted}, "standoff": 8},
        "automargin": True,
    }
    colorbar = {
        "thickness": 8,
        "outlinewidth": 0,
        "ticks": "",
        "tickfont": {"size": 10, "color": palette.muted},
        "title": {"font": {"size": 11, "color": palette.muted}, "side": "right"},
        "len": 0.9,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12, "color": palette.ink},
            "paper_bgcolor": palette.surface,
            "plot_bgcolor": palette.surface,
            "colorway": [INDIGO, AMBER, ROSE, palette.muted],
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8, "pad": 4},
            "xaxis": axis,
            "yaxis": axis,
            "bargap": 0.08,
            "showlegend": False,
            "hoverlabel": {
                "bgcolor": palette.ink,
                "bordercolor": palette.ink,
                "font": {"family": FONT, "size": 12, "color": palette.surface},
                "align": "left",
            },
            "colorscale": {"sequential": scale(palette.indigo), "diverging": list(palette.diverging)},
            "annotationdefaults": {"font": {"size": 11, "color": palette.muted}, "showarrow": False},
            "shapedefaults": {"line": {"color": AMBER, "width": 2}},
        },
        data={"heatmap": [{"colorscale": scale(palette.indigo), "colorbar": colorbar}]},
    )


pio.templates[LIGHT] = template(LIGHT_PALETTE)
pio.templates[DARK] = template(DARK_PALETTE)
