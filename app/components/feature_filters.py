"""The controls above the table of features."""

from typing import TYPE_CHECKING

from dash import dcc, html

from app.addresses import LOWEST_DENSITY, Features
from app.components.latents import spoken

if TYPE_CHECKING:
    from app.session import Dictionary

MARKS = {-6: "1 in 1M", -4: "0.01%", -2: "1%", 0: "100%"}


def filters(dictionary: "Dictionary", state: Features) -> html.Div:
    """Text, concept, density and largest activation."""
    concepts = [{"label": spoken(name), "value": name} for name in sorted(dictionary.index.summary.concepts)]
    search = dcc.Input(
        id="features-search",
        type="search",
        value=state.search,
        debounce=0.3,
        placeholder="a token, a logit, a concept",
        autoComplete="off",
    )
    choice = dcc.Dropdown(
        id="features-concept", options=concepts, value=state.concept or None, placeholder="any", clearable=True
    )
    slider = dcc.RangeSlider(
        id="features-density",
        min=LOWEST_DENSITY,
        max=0,
        step=0.25,
        value=[state.rare, state.common],
        marks=MARKS,
        allow_direct_input=False,
    )
    least = dcc.Input(
        id="features-least", type="number", min=0, step="any", value=state.least or None, debounce=0.3, placeholder="0"
    )
    return html.Div(
        [
            _control("Search", search, "features-search"),
            _control("Density", slider, "features-density"),
            _control("Maximum at least", least, "features-least"),
            _control("Concept", choice, "features-concept", hidden=not concepts),
        ],
        className="filters" if concepts else "filters plain",
    )


def _control(name: str, control: object, target: str, hidden: bool = False) -> html.Div:
    return html.Div([html.Label(name, htmlFor=target), control], className="filter", hidden=hidden)
