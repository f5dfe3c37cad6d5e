"""The logit lens page: what the model would say if it stopped after each layer."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from dash import Dash, Input, Output, dcc, html

from app import samples
from app.addresses import Lens as PageState
from app.components import notice, panel, prompt
from app.components.remarks import remarks
from app.components.segmented import segmented
from app.prompts import checked
from app.theme import themed
from workbench.errors import WorkbenchError
from workbench.figures import lens as figures
from workbench.figures.frame import nothing

if TYPE_CHECKING:
    from app.session import Session

TITLE = "Logit lens"
SHOWN = {
    "probability": "Top probability",
    "next": "Next-token probability",
    "rank": "Next-token rank",
    "final": "Final-token rank",
    "entropy": "Entropy",
    "kl": "KL to final",
}
CELLS = {"token": "Token", "number": "Number"}


def layout(session: "Session", state: PageState) -> Any:
    text = state.prompt or samples.first(session)
    show = state.show if state.show in SHOWN else "probability"
    cells = state.cells if state.cells in CELLS else "token"
    controls = [segmented("lens-show", SHOWN, show, "Colour"), segmented("lens-cells", CELLS, cells, "Cells")]
    return [
        html.H1(TITLE),
        html.P("What the model would say if it stopped after each layer.", className="lead"),
        prompt.prompt("lens", text),
        prompt.samples([(sample.name, PageState(prompt=sample.prompt)) for sample in samples.samples(session)]),
        html.Div(id="lens-notice"),
        html.Div(controls, className="toolbar"),
        html.Div(panel.panel("lens", className="wide"), id="lens-results"),
        dcc.Store(id={"type": "url", "page": "lens"}),
    ]


def register(app: Dash, session: "Session") -> None:
    prompt.register(app, "lens")

    @app.callback(
        Output(panel.graph_id("lens"), "figure"),
        Output("lens-notice", "children"),
        Output("lens-results", "hidden"),
        Output({"type": "url", "page": "lens"}, "data"),
        Input("lens-shown", "data"),
        Input("lens-show", "value"),
        Input("lens-cells", "value"),
    )
    def update(text: str, show: str, cells: str) -> tuple[go.Figure, list, bool, str]:
        return render(session, text, show, cells)


def render(session: "Session", text: str, show: str, cells: str) -> tuple[go.Figure, list, bool, str]:
    """The figure, what to remark, whether to hide the results, and the address."""
    kept = "" if text == samples.first(session) else text
    href = PageState(prompt=kept, show=show, cells=cells).href()
    try:
        result = session.lens(checked(session.model, text))
    except WorkbenchError as error:
        return nothing(), [notice.error(str(error))], True, href
    return (
        themed(figures.figure(result, show, cells), model=session.model.info.name, prompt=text),
        remarks(session.model, text),
        False,
        href,
    )
