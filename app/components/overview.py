"""An SAE at a glance: its facts and the densities of its latents."""

from typing import TYPE_CHECKING

from dash import html

from app.components.dictionaries import summary_facts
from app.components.facts import facts
from app.components.panel import panel
from workbench.figures.features import densities

if TYPE_CHECKING:
    from app.session import Dictionary


def overview(dictionary: "Dictionary") -> html.Div:
    """Facts beside the histogram of densities."""
    figure = densities([row["density"] for row in dictionary.rows], dictionary.index.summary.n_tokens)
    return html.Div(
        [facts(summary_facts(dictionary), "stacked"), panel("densities", figure)],
        className="overview",
    )
