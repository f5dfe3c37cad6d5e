"""From an address to a page. The URL holds the state; a page is laid out from it and nothing else."""

from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dash import ClientsideFunction, Dash, Input, Output, State, html

from app.components import navigation, notice
from app.errors import one_line
from app.pages import attention, feature, features, home, lens, text
from app.state import read

if TYPE_CHECKING:
    from app.session import Session

PAGES: dict[str, ModuleType] = {page.PageState.PATH: page for page in (home, attention, lens, features, feature, text)}


def register(app: Dash, session: "Session") -> None:
    """`address` is kept by `url.js`; a change of it, or the model's arrival, lays out the page anew."""

    @app.callback(
        Output("page", "children"),
        Output("navigation", "children"),
        Output("document-title", "data"),
        Input("address", "data"),
        Input("ready", "data"),
    )
    def show(address: str | None, _ready: bool) -> tuple[Any, Any, str]:
        return lay_out(session, address or "/")

    app.clientside_callback(
        ClientsideFunction("workbench", "locate"), Output("address", "data"), Input("address", "id")
    )
    app.clientside_callback(ClientsideFunction("workbench", "entitle"), Input("document-title", "data"))
    app.clientside_callback(
        ClientsideFunction("workbench", "ready"),
        Output("ready", "data"),
        Input("finished", "data"),
        State("ready", "data"),
    )


def lay_out(session: "Session", address: str) -> tuple[Any, Any, str]:
    """The page, the navigation and the window's title for `address` (path and query)."""
    url = urlsplit(address)
    page = PAGES.get(url.path.rstrip("/") or "/")
    path = page.PageState.PATH if page else ""
    title = page.TITLE if page else "No such page"
    return _content(session, page, url.query), navigation.links(session, path), f"{title} · Interp Workbench"


def _content(session: "Session", page: ModuleType | None, query: str) -> Any:
    if page is None:
        return notice.empty("There is no such page.", html.P(html.A("Go to the start", href="/")))
    if not session.ready:
        return _loading(session)
    try:
        return page.layout(session, read(page.PageState, query))
    except Exception as error:
        return [html.H1(page.TITLE), notice.error(one_line(error))]


def _loading(session: "Session") -> Any:
    """What the page says until the model is there, or if it never will be."""
    job = session.loading
    if job is not None and job.error:
        return notice.empty("Loading has failed.", notice.error(job.error))
    return notice.empty(
        f"Loading {session.source}…",
        html.P("The first time takes a few seconds more. This page fills itself in.", className="hint"),
        html.Progress(**{"aria-label": "Loading the model"}),
    )
