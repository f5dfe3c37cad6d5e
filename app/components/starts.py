"""Solved examples: places where something is there to be found, as links."""

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, html

from app import samples

if TYPE_CHECKING:
    from app.session import Session


def starts(session: "Session") -> list[Any]:
    from app.pages import attention, lens

    (name, sample), *_ = samples.prompts(session)
    return [
        card("Attention", name, f"{sample}", attention.PageState().href()),
        card("Lens", name, f"{sample}", lens.PageState().href()),
    ]


def card(kind: str, title: str, text: str, href: str) -> html.A:
    return html.A([html.Span(kind, className="hint"), html.Strong(title), html.Span(text)], href=href, className="card")


def register(app: Dash, session: "Session") -> None:
    pass
