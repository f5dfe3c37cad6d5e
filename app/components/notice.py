"""One clear line: an error, a remark, or what to do where there is nothing to show yet."""

from typing import Any

from dash import html


def error(text: str) -> html.P:
    """What is wrong and what would be right. Announced by screen readers at once."""
    return html.P(text, className="notice error", role="alert")


def remark(*children: Any) -> html.P:
    """Something worth knowing that stopped nothing."""
    return html.P(list(children), className="notice remark", role="status")


def empty(title: str, *children: Any) -> html.Div:
    """The state of a page that has nothing to show, and the way out of it."""
    return html.Div([html.H2(title), *children], className="empty")


def command(text: str) -> html.Div:
    """A command line to copy."""
    return html.Div(
        [
            html.Code(text),
            html.Button("Copy", className="quiet", type="button", **{"data-copy": text, "aria-label": "Copy command"}),
        ],
        className="command",
    )
