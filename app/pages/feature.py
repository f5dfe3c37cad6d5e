"""The page of one feature: what it fires on, how strongly, what it writes, what is like it."""

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, dcc, html
from dash import State as Current

from app.addresses import Feature as PageState
from app.components import examples, feature_facts, feature_heading, missing_index, notice, on_my_text, prompt
from app.state import read

if TYPE_CHECKING:
    from app.session import Session

TITLE = "Feature"


def layout(session: "Session", state: PageState) -> Any:
    if not session.dictionaries:
        return [html.H1(TITLE), notice.error("no SAE is open; start with `workbench app --sae DIR`")]
    dictionary = session.dictionary(state.sae)
    if dictionary.index is None:
        return [html.H1(TITLE), missing_index.missing_index(dictionary)]
    record = dictionary.index.latent(state.latent)
    return [
        *feature_heading.heading(dictionary, record),
        html.Div(
            [
                html.Div(feature_facts.meaning(dictionary, record), className="column"),
                html.Div(
                    [
                        feature_facts.histogram_panel(dictionary, record),
                        on_my_text.on_my_text(state.text),
                        examples.examples(record),
                    ],
                    className="column",
                ),
            ],
            className="feature-columns",
        ),
        dcc.Store(id="feature-state", data=state.href()),
        dcc.Store(id={"type": "url", "page": "feature"}),
    ]


def register(app: Dash, session: "Session") -> None:
    prompt.register(app, "feature")

    @app.callback(
        Output("feature-live", "children"),
        Output({"type": "url", "page": "feature"}, "data"),
        Input("feature-shown", "data"),
        Current("feature-state", "data"),
    )
    def update(text: str, before: str) -> tuple[Any, str]:
        state = read(PageState, before.partition("?")[2])
        href = PageState(sae=state.sae, latent=state.latent, text=text or "").href()
        return on_my_text.answer(session, state.sae, state.latent, text), href
