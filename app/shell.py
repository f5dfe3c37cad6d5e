"""What stays while pages come and go: the side bar, the page's place, the stores, the list of keys."""

from typing import TYPE_CHECKING

from dash import dcc, html

from app.components import keys, navigation

if TYPE_CHECKING:
    from app.session import Session

INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <meta name="color-scheme" content="light dark">
        <title>{%title%}</title>
        <link rel="icon" type="image/svg+xml" href="/assets/mark.svg">
        <script src="/assets/theme.js"></script>
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>
"""
"""`theme.js` stands in the head and is loaded before anything is drawn, so that a dark page never flashes white."""


def shell(session: "Session") -> html.Div:
    """The frame of every page."""
    return html.Div(
        [
            html.A("Skip to the page", href="#page", className="skip"),
            navigation.sidebar(),
            html.Main(id="page", tabIndex=-1),
            html.Div(id="alert", className="alert", role="alert"),
            keys.dialog(),
            html.Div(id="tip", role="tooltip", hidden=True),
            dcc.Store(id="address"),
            dcc.Store(id="ready", data=session.ready),
            dcc.Store(id="jobs-wake", data=0),
            dcc.Store(id="document-title"),
        ],
        className="shell",
    )
