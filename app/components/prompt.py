"""The box for a prompt of one's own: Enter runs it, Shift+Enter starts a new line."""

from collections.abc import Sequence

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from app.state import State as PageState


def prompt(page: str, value: str, *, caption: str = "Prompt", action: str = "Run") -> html.Div:
    """A text box with its button. What was last run is the data of the store `{page}-shown`."""
    return html.Div(
        [
            html.Label(caption, htmlFor=f"{page}-text"),
            html.Div(
                [
                    dcc.Textarea(id=f"{page}-text", value=value, rows=2, spellCheck=False, className="prompt-text"),
                    html.Button(action, id=f"{page}-run", type="button", className="primary", **{"data-run": page}),
                ],
                className="prompt-row",
            ),
            html.P(
                [html.Kbd("Enter"), " runs, ", html.Kbd("Shift"), " ", html.Kbd("Enter"), " starts a new line"],
                className="hint",
            ),
            dcc.Store(id=f"{page}-shown", data=value),
        ],
        className="prompt",
    )


def samples(states: Sequence[tuple[str, PageState]]) -> html.P:
    """Prompts to start from, as links to the page that shows them."""
    links = [html.A(name, href=state.href(), className="chip") for name, state in states]
    return html.P([html.Span("Try", className="hint"), *links], className="samples")


def register(app: Dash, page: str) -> None:
    """The button (and Enter) moves the text into the store."""
    app.clientside_callback(
        ClientsideFunction("workbench", "run"),
        Output(f"{page}-shown", "data"),
        Input(f"{page}-run", "n_clicks"),
        State(f"{page}-text", "value"),
        prevent_initial_call=True,
    )
