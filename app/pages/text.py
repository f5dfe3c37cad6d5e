"""The page of one's own text: which latents of an SAE fire on it, on all of it or at one token."""

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, dcc, html
from dash import State as Current

from app import samples
from app.addresses import Text as PageState
from app.components import dictionaries, firings, missing_index, notice, prompt
from app.components.remarks import remarks
from app.prompts import checked
from app.state import read
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from app.session import Session

TITLE = "On my text"


def layout(session: "Session", state: PageState) -> Any:
    heading = html.H1(TITLE)
    if not session.dictionaries:
        return [heading, dictionaries.dictionaries(session)]
    dictionary = session.dictionary(state.sae)
    if dictionary.index is None:
        return [heading, missing_index.missing_index(dictionary)]
    text = state.prompt or samples.first(session)
    return [
        heading,
        html.P("Which features fire on a text. Click a token to see those that fire there.", className="lead"),
        dictionaries.selector(session, dictionary, lambda name: PageState(sae=name, prompt=state.prompt).href()),
        prompt.prompt("text", text),
        prompt.samples(
            [(s.name, PageState(sae=state.sae, prompt=s.prompt)) for s in samples.samples(session)],
        ),
        html.Div(id="text-notice"),
        html.Div(id="text-results", className="column"),
        dcc.Store(id="text-at", data=state.at if state.at >= 0 else None),
        dcc.Store(id="text-state", data=state.href()),
        dcc.Store(id={"type": "url", "page": "text"}),
    ]


def register(app: Dash, session: "Session") -> None:
    prompt.register(app, "text")

    @app.callback(
        Output("text-results", "children"),
        Output("text-notice", "children"),
        Output({"type": "url", "page": "text"}, "data"),
        Input("text-shown", "data"),
        Input("text-at", "data"),
        Current("text-state", "data"),
    )
    def update(text: str, at: int | None, before: str) -> tuple[Any, list, str]:
        return render(session, read(PageState, before.partition("?")[2]).sae, text, at)


def render(session: "Session", sae: str, text: str, at: int | None) -> tuple[Any, list, str]:
    """The firings, what to remark, and the address."""
    kept = "" if text == samples.first(session) else text
    dictionary = session.dictionary(sae)
    try:
        firing = session.firing(dictionary, checked(session.model, text))
    except WorkbenchError as error:
        return None, [notice.error(str(error))], PageState(sae=sae, prompt=kept).href()
    at = at if at is not None and 0 <= at < len(firing.strings) else None
    href = PageState(sae=sae, prompt=kept, at=-1 if at is None else at).href()
    return firings.firings(dictionary, firing, at), remarks(session.model, text), href
