"""The attention page: all heads on one prompt, one of them enlarged, token by token."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash import State as Current

from app import samples
from app.addresses import Attention as PageState
from app.components import head_facts, jobs, looks, notice, panel, prompt
from app.components.remarks import remarks
from app.components.segmented import segmented
from app.prompts import checked
from app.session import HEADS
from app.theme import themed
from workbench.errors import WorkbenchError
from workbench.figures import attention as figures
from workbench.figures import heads as head_figures
from workbench.figures.frame import nothing

if TYPE_CHECKING:
    from app.session import Session
    from workbench.heads import HeadScores

TITLE = "Attention"
KINDS = {"induction": "Induction", "previous_token": "Previous token", "duplicate_token": "Duplicate token"}


def layout(session: "Session", state: PageState) -> Any:
    session.renew(HEADS)
    text = state.prompt or samples.first(session)
    kind = state.score if state.score in KINDS else "induction"
    chosen = [state.layer, state.head] if exists(session, state.layer, state.head) else None
    return [
        html.H1(TITLE),
        html.P(
            "Where every head looks. Click a tile to enlarge its head; hover a token to see its links.",
            className="lead",
        ),
        prompt.prompt("attention", text),
        prompt.samples([(sample.name, PageState(prompt=sample.prompt)) for sample in samples.samples(session)]),
        html.Div(id="attention-notice"),
        html.Div(
            [
                html.Div(
                    [
                        panel.panel("heads", className="heads"),
                        panel.panel("scores", controls=segmented("attention-score", KINDS, kind, "Score")),
                    ],
                    className="column",
                ),
                html.Div(
                    [panel.panel("head"), html.Div(id="attention-facts"), html.Div(id="attention-looks")],
                    className="column",
                ),
            ],
            id="attention-results",
            className="two-columns",
        ),
        dcc.Store(id="attention-head", data=chosen),
        dcc.Store(id="attention-grid"),
        jobs.news("attention"),
        dcc.Store(id={"type": "url", "page": "attention"}),
    ]


def register(app: Dash, session: "Session") -> None:
    prompt.register(app, "attention")
    grid, scores = panel.graph_id("heads"), panel.graph_id("scores")
    app.clientside_callback(
        ClientsideFunction("workbench", "pickHead"),
        Output("attention-head", "data"),
        Input(grid, "clickData"),
        Input(scores, "clickData"),
        prevent_initial_call=True,
    )
    app.clientside_callback(ClientsideFunction("workbench", "hoverHead"), Input(panel.graph_id("head"), "hoverData"))
    app.clientside_callback(
        ClientsideFunction("workbench", "outlineHead"),
        Output(grid, "figure"),
        Input("attention-grid", "data"),
        Input("attention-head", "data"),
    )

    @app.callback(
        Output("attention-grid", "data"),
        Output("attention-notice", "children"),
        Output("attention-results", "hidden"),
        Input("attention-shown", "data"),
    )
    def show_heads(text: str) -> tuple[go.Figure, list, bool]:
        return all_heads(session, text)

    @app.callback(
        Output(scores, "figure"),
        Output("attention-head", "data", allow_duplicate=True),
        Output("jobs-wake", "data", allow_duplicate=True),
        Input("attention-score", "value"),
        Input(jobs.news_id("attention"), "data"),
        Current("attention-head", "data"),
        prevent_initial_call="initial_duplicate",
    )
    def show_scores(kind: str, _finished: int, chosen: list[int] | None) -> tuple[go.Figure, list[int] | None, int]:
        return all_scores(session, kind, chosen)

    @app.callback(
        Output(panel.graph_id("head"), "figure"),
        Output("attention-facts", "children"),
        Output("attention-looks", "children"),
        Output({"type": "url", "page": "attention"}, "data"),
        Input("attention-shown", "data"),
        Input("attention-head", "data"),
        Input("attention-score", "value"),
    )
    def show_head(text: str, chosen: list[int] | None, kind: str) -> tuple[go.Figure, Any, Any, str]:
        return one_head(session, text, chosen, kind)


def exists(session: "Session", layer: int, head: int) -> bool:
    info = session.model.info
    return 0 <= layer < info.n_layers and 0 <= head < info.n_heads


def all_heads(session: "Session", text: str) -> tuple[go.Figure, list, bool]:
    """The grid, what to remark, whether to hide the results."""
    try:
        result = session.attention(checked(session.model, text))
    except WorkbenchError as error:
        return nothing(), [notice.error(str(error))], True
    return themed(figures.grid(result), model=session.model.info.name, prompt=text), remarks(session.model, text), False


def scored(session: "Session") -> "HeadScores | None":
    """The scores, if they are there."""
    try:
        return session.head_scores()
    except WorkbenchError:
        return None


def all_scores(session: "Session", kind: str, chosen: list[int] | None) -> tuple[go.Figure, list[int] | None, int]:
    """The scores of all heads, the head to enlarge (the one chosen, or the best at this score), the number of jobs."""
    scores = scored(session)
    if scores is None:
        return nothing(), chosen, len(session.worker.jobs)
    best = list(scores.ranked(kind)[0][:2])
    figure = themed(head_figures.scores(scores, kind), model=session.model.info.name)
    return figure, chosen or best, len(session.worker.jobs)


def one_head(session: "Session", text: str, chosen: list[int] | None, kind: str) -> tuple[go.Figure, Any, Any, str]:
    """The enlarged head, its scores, its tokens, and the address."""
    layer, head = chosen or (0, 0)
    kept = "" if text == samples.first(session) else text
    shown = {"layer": layer, "head": head} if chosen else {}
    href = PageState(prompt=kept, score=kind, **shown).href()
    try:
        result = session.attention(checked(session.model, text))
    except WorkbenchError:
        return nothing(), None, None, href
    facts = head_facts.head_facts(session, layer, head)
    figure = themed(figures.head(result, layer, head), model=session.model.info.name, prompt=text)
    return figure, facts, looks.looks(result, layer, head), href
