"""The list of keys, shown by `?`."""

from dash import html

KEYS = (
    ("?", "this list"),
    ("/", "go to the prompt or the search box"),
    ("Enter", "run the prompt; Shift Enter starts a new line"),
    ("g then s, a, l, f, m", "go to Start, Attention, Logit lens, Features, On my text"),
    ("← → ↑ ↓", "another head, when the grid of heads has the focus"),
    ("n, p, r", "next, previous, random feature"),
    ("t", "light or dark"),
    ("Esc", "let go of a locked token, close a menu"),
)


def dialog() -> html.Dialog:
    """Opened and closed by `keys.js`."""
    rows = [html.Div([html.Dt(html.Kbd(key)), html.Dd(does)]) for key, does in KEYS]
    return html.Dialog(
        [
            html.H2("Keyboard"),
            html.Dl(rows, className="keys"),
            html.Button("Close", type="button", className="primary", **{"data-do": "help"}),
        ],
        id="keys",
        **{"aria-label": "Keyboard"},
    )
