"""Solved examples: places where something is there to be found, as links."""

from typing import TYPE_CHECKING, Any

from dash import Dash, html

from app import samples
from app.addresses import Attention, Lens

if TYPE_CHECKING:
    from app.session import Session


def starts(session: "Session") -> list[Any]:
    (name, sample), *_ = samples.prompts(session)
    return [
        card("Attention", name, f"{sample}", Attention().href()),
        card("Lens", name, f"{sample}", Lens().href()),
    ]


def card(kind: str, title: str, text: str, href: str) -> html.A:
    return html.A([html.Span(kind, className="hint"), html.Strong(title), html.Span(text)], href=href, className="card")


def register(app: Dash, session: "Session") -> None:
    pass
