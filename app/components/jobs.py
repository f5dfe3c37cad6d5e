"""The list of jobs: what is running, how far it is, and a way to stop it."""

import time
from typing import TYPE_CHECKING

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, callback_context, dcc, html, no_update

from app.jobs import CANCELLED, DONE, FAILED, Job

if TYPE_CHECKING:
    from app.session import Session

SHOWN = 5
"""The latest so many jobs are listed."""


def drawer() -> html.Details:
    """A small panel at the foot of the navigation; empty while nothing has run."""
    return html.Details(
        [
            html.Summary("Jobs", id="jobs-summary"),
            html.Div(id="jobs-list", className="jobs"),
            dcc.Interval(id="jobs-poll", interval=500),
            dcc.Store(id="finished", data=0),
        ],
        className="drawer",
    )


def news(page: str) -> dcc.Store:
    """Put on a page that waits for jobs: the number of jobs that have finished."""
    return dcc.Store(id=news_id(page))


def news_id(page: str) -> dict[str, str]:
    return {"type": "news", "page": page}


def row(job: Job, now: float) -> html.Div:
    """One job."""
    left = job.seconds_left(now)
    state = {DONE: "done", FAILED: job.error, CANCELLED: "cancelled"}.get(job.state) or job.message or job.state
    if left is not None and left > 1:
        state += f" · {left:.0f} s left"
    children = [html.Div(job.title, className="job-title"), html.Div(state, className="hint")]
    if job.active:
        children += [
            html.Progress(value=f"{job.share:.3f}" if job.total else None, max="1", **{"aria-label": job.title}),
            html.Button("Cancel", id={"type": "cancel", "job": job.number}, className="quiet", type="button"),
        ]
    return html.Div(children, className=f"job {job.state}")


def register(app: Dash, session: "Session") -> None:
    """Poll while something is running; tell the pages when something has finished."""

    @app.callback(
        Output("jobs-list", "children"),
        Output("jobs-summary", "children"),
        Output("jobs-poll", "disabled"),
        Output("finished", "data"),
        Input("jobs-poll", "n_intervals"),
        Input("jobs-wake", "data"),
        Input({"type": "cancel", "job": ALL}, "n_clicks"),
        State("finished", "data"),
    )
    def poll(_ticks: int | None, _wake: int | None, clicks: list[int | None], finished: int) -> tuple:
        if isinstance(callback_context.triggered_id, dict) and any(clicks):
            session.worker.cancel(callback_context.triggered_id["job"])
        return status(session, finished)

    everywhere = {"type": "news", "page": ALL}
    app.clientside_callback(
        ClientsideFunction("workbench", "tell"),
        Output(everywhere, "data"),
        Input("finished", "data"),
        State(everywhere, "id"),
    )


def status(session: "Session", known: int) -> tuple:
    """The drawer's rows and title, whether to stop polling, and how many jobs have finished if more than `known`."""
    jobs, now = session.worker.jobs, time.monotonic()
    active = [job for job in jobs if job.active]
    rows = [row(job, now) for job in reversed(jobs[-SHOWN:])] or no_update
    title = ["Jobs ", html.Span(str(len(active)), className="count")] if active else "Jobs"
    finished = len(jobs) - len(active)
    return rows, title, not active, no_update if finished == known else finished
