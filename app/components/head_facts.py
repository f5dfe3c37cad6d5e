"""What the scores say of one head: each score, and its rank among all heads."""

from typing import TYPE_CHECKING, Any

from dash import html

from app.components import notice
from app.components.facts import bar
from app.components.panel import reading_button
from workbench.errors import WorkbenchError
from workbench.figures.heads import READINGS

if TYPE_CHECKING:
    from app.session import Session
    from workbench.heads import HeadScores


def head_facts(session: "Session", layer: int, head: int) -> Any:
    """A small table, or the word that the scores are still being measured, or why there are none."""
    try:
        scores = session.head_scores()
    except WorkbenchError as error:
        return notice.error(str(error))
    if scores is None:
        return html.P("The scores of the heads are being measured…", className="hint")
    rows = [_row(scores, kind, layer, head) for kind in READINGS]
    head_row = html.Tr([html.Th("Score"), html.Th("Mean attention"), html.Th("Rank"), html.Th()])
    return html.Table([html.Thead(head_row), html.Tbody(rows)], className="plain")


def _row(scores: "HeadScores", kind: str, layer: int, head: int) -> html.Tr:
    ranked = scores.ranked(kind)
    rank, value = next((n, s) for n, (at, h, s) in enumerate(ranked, start=1) if (at, h) == (layer, head))
    why = f"Mean attention, 0 to 1, to {READINGS[kind]}, on random tokens repeated once."
    return html.Tr(
        [
            html.Th(kind.replace("_", " ").capitalize(), scope="row"),
            html.Td(bar(value, f"{value:.2f}")),
            html.Td(f"{rank} of {len(ranked)}"),
            html.Td(reading_button(why)),
        ]
    )
