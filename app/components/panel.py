"""A figure in its frame: its title, how to read it behind a "?", and the menu that exports it."""

from typing import Any

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, State, callback_context, clientside_callback, dcc, html

from workbench.figures.frame import nothing, reading, title
from workbench.figures.table import to_csv, to_json

CONFIG = {
    "displayModeBar": False,
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
}


def graph_id(name: str) -> dict[str, str]:
    """The id of the graph in panel `name`."""
    return {"type": "graph", "name": name}


def panel(name: str, figure: go.Figure | None = None, *, controls: Any = None, className: str = "") -> html.Section:
    """A framed figure. Without one, the frame is empty until a callback sends a figure to `graph_id(name)`."""
    figure = figure or nothing()
    return html.Section(
        [
            html.Header(
                [
                    html.H2(title(figure), id={"type": "title", "name": name}),
                    reading_button(reading(figure), id={"type": "reading", "name": name}),
                    export_menu(name),
                ]
            ),
            html.Div(controls, className="controls") if controls else None,
            html.Div(dcc.Graph(id=graph_id(name), figure=figure, config=CONFIG), className="picture"),
            dcc.Download(id={"type": "download", "name": name}),
        ],
        className=f"panel {className}",
    )


def reading_button(text: str, **props: Any) -> html.Button:
    """The "?" that says what an axis, a colour or a column means."""
    return html.Button("?", type="button", className="reading", **{"data-tip": text, "aria-label": text}, **props)


def export_menu(name: str) -> html.Details:
    """PNG and SVG are drawn by the browser (`figures.js`), CSV and JSON are written here."""
    formats = [
        html.Button("PNG", type="button", **{"data-export": "png"}),
        html.Button("SVG", type="button", **{"data-export": "svg"}),
        html.Button("CSV", type="button", id={"type": "csv", "name": name}),
        html.Button("JSON", type="button", id={"type": "json", "name": name}),
    ]
    return html.Details([html.Summary("Export"), html.Div(formats)], className="menu")


def register(app: Dash) -> None:
    """Captions that follow their figure, and the CSV and JSON of any panel."""
    from dash import MATCH

    def each(kind: str) -> dict[str, Any]:
        return {"type": kind, "name": MATCH}

    clientside_callback(
        ClientsideFunction("workbench", "caption"),
        Output(each("title"), "children"),
        Output(each("reading"), "data-tip"),
        Output(each("reading"), "aria-label"),
        Output(each("graph"), "style"),
        Input(each("graph"), "figure"),
    )

    @app.callback(
        Output(each("download"), "data"),
        Input(each("csv"), "n_clicks"),
        Input(each("json"), "n_clicks"),
        State(each("graph"), "figure"),
        prevent_initial_call=True,
    )
    def download(_csv: int | None, _json: int | None, figure: dict[str, Any]) -> dict[str, Any]:
        return export(figure, callback_context.triggered_id["type"])


def export(figure: dict[str, Any], kind: str) -> dict[str, Any]:
    """A figure as a file for `dcc.Download`; `kind` is "csv" or "json"."""
    name = (figure.get("layout", {}).get("meta") or {}).get("title", "figure")
    content = to_csv(figure) if kind == "csv" else to_json(figure)
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    return {"content": content, "filename": f"{slug}.{kind}", "type": f"text/{kind}"}
