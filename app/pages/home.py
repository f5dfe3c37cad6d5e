"""The start page: what is open, and where to begin."""

from typing import TYPE_CHECKING, Any

from dash import Dash, html

from app.addresses import Start as PageState
from app.components import dictionaries, jobs, model_facts, starts

if TYPE_CHECKING:
    from app.session import Session

TITLE = "Start"


def layout(session: "Session", state: PageState) -> Any:
    return [
        html.H1(session.model.info.name),
        model_facts.model_facts(session.model.info),
        html.H2("Begin with something that is there to be found"),
        html.Div(starts.starts(session), id="starts", className="starts"),
        html.H2("Sparse autoencoders"),
        dictionaries.dictionaries(session),
        jobs.news("home"),
    ]


def register(app: Dash, session: "Session") -> None:
    starts.register(app, session)
