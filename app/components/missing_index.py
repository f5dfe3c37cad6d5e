"""An SAE that has no feature index: the command that builds one, and a button that does."""

from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, dcc, html
from dash import State as Current

from app.addresses import Features
from app.components import jobs, notice
from app.jobs import CANCELLED, FAILED

if TYPE_CHECKING:
    from app.session import Dictionary, Session


def missing_index(dictionary: "Dictionary") -> html.Div:
    """The empty state of the features page."""
    return notice.empty(
        f"{dictionary.name} has no feature index yet.",
        html.P("An index holds what is known of every latent: examples, histogram, logit effects, neighbours."),
        notice.command(f"workbench sae index {dictionary.directory}"),
        html.P(html.Button("Build it now", id="index-build", className="primary", type="button")),
        html.Div(id="index-state"),
        dcc.Store(id="index-sae", data=dictionary.name),
        jobs.news("index"),
    )


def register(app: Dash, session: "Session") -> None:
    @app.callback(
        Output("index-state", "children"),
        Output("jobs-wake", "data", allow_duplicate=True),
        Input("index-build", "n_clicks"),
        Input(jobs.news_id("index"), "data"),
        Current("index-sae", "data"),
        prevent_initial_call=True,
    )
    def build(clicks: int | None, _finished: int, name: str) -> tuple[Any, int]:
        return progress(session, name, bool(clicks)), len(session.worker.jobs)


def progress(session: "Session", name: str, wanted: bool) -> Any:
    """Start the job if it is wanted; say how it stands, or where to look once it is done."""
    dictionary = session.dictionary(name)
    if dictionary.index is not None:
        return html.P(html.A("The index is ready. Open it.", href=Features(sae=name).href(), className="primary"))
    if not wanted:
        return None
    job = session.build_index(dictionary)
    if job.state == CANCELLED:
        return notice.remark("The building was cancelled.")
    if job.state == FAILED:
        return notice.error(job.error)
    return notice.remark("Building; the list of jobs shows how far it is, and can stop it.")
