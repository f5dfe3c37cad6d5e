"""The side bar: where one can go, and what is open."""

from typing import TYPE_CHECKING

from dash import html

from app.components import jobs
from app.components.facts import count

if TYPE_CHECKING:
    from app.session import Session

GROUPS = (
    ("", (("/", "Start", "s"),)),
    ("Model", (("/attention", "Attention", "a"), ("/lens", "Logit lens", "l"))),
    ("Dictionary", (("/features", "Features", "f"), ("/text", "On my text", "m"))),
)
"""Groups of (path, name, key after `g`)."""
PARENTS = {"/feature": "/features"}


def links(session: "Session", path: str) -> list:
    """The links, the current one marked, and the model's name."""
    current = PARENTS.get(path, path)
    groups = []
    for title, entries in GROUPS:
        items = [
            html.A(name, href=to, **({"aria-current": "page"} if to == current else {}), **{"data-key": key})
            for to, name, key in entries
        ]
        groups.append(html.Div([html.Div(title, className="group"), *items] if title else items))
    return [*groups, _model(session)]


def _model(session: "Session") -> html.Div:
    if session.model is None:
        return html.Div("loading…", className="open-model")
    info = session.model.info
    return html.Div(
        [html.Strong(info.name), html.Span(f"{info.n_layers} layers · {count(info.n_parameters)} parameters")],
        className="open-model",
    )


def sidebar() -> html.Header:
    """The frame that `links` fills, with the tools at its foot."""
    return html.Header(
        [
            html.A([html.Span(className="mark"), "Interp Workbench"], href="/", className="brand"),
            html.Nav(id="navigation", **{"aria-label": "Pages"}),
            html.Div(
                [
                    jobs.drawer(),
                    html.Button(
                        "Theme",
                        type="button",
                        className="quiet",
                        **{"data-do": "theme", "data-tip": "Light or dark (t)"},
                    ),
                    html.Button(
                        "Keys", type="button", className="quiet", **{"data-do": "help", "data-tip": "Keyboard (?)"}
                    ),
                ],
                className="tools",
            ),
        ],
        className="sidebar",
    )
