"""An SAE at a glance: its facts and the densities of its latents."""

from typing import TYPE_CHECKING

from dash import html

from app.components.dictionaries import summary_facts
from app.components.facts import facts
from app.components.notice import remark
from app.components.panel import panel
from app.theme import themed
from workbench.figures.features import densities

if TYPE_CHECKING:
    from app.session import Dictionary
    from workbench.model import HookedModel


def overview(dictionary: "Dictionary", model: "HookedModel") -> html.Div:
    """Facts beside the histogram of densities, and a warning if they were measured on another model."""
    summary = dictionary.index.summary
    figure = densities([row["density"] for row in dictionary.rows], summary.n_tokens)
    return html.Div(
        [
            html.Div([facts(summary_facts(dictionary), "stacked"), _other_model(dictionary, model)]),
            panel("densities", themed(figure, model=summary.model, sae=dictionary.name)),
        ],
        className="overview",
    )


def _other_model(dictionary: "Dictionary", model: "HookedModel") -> html.P | None:
    """A word of warning if the index was built with weights that are not the open model's."""
    if dictionary.index.summary.model_fingerprint == model.fingerprint:
        return None
    return remark(f"This index was built with other weights than those of {model.info.name}; index the SAE again.")
