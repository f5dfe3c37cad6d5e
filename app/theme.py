"""Light or dark, as the browser told us: `theme.js` keeps the choice in localStorage and in a cookie for the server."""

import plotly.graph_objects as go
from flask import has_request_context, request

from workbench.figures.theme import DARK, LIGHT

COOKIE = "workbench-theme"


def themed(figure: go.Figure, **source: str) -> go.Figure:
    """`figure` in the template of the browser that asks, and where its numbers come from, for its exports."""
    dark = has_request_context() and request.cookies.get(COOKIE) == "dark"
    figure.layout.meta = {**(figure.layout.meta or {}), "source": source}
    return figure.update_layout(template=DARK if dark else LIGHT)
