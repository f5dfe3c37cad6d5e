from dataclasses import dataclass
from typing import ClassVar
from dash import html
from app.state import State

TITLE = "Features"


@dataclass(frozen=True)
class PageState(State):
    PATH: ClassVar[str] = "/features"


def layout(session, state):
    return html.H1(TITLE)


def register(app, session):
    pass
