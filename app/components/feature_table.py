"""The table of features: headings that sort, fifty rows, and a pager. All of it links, so every view is a URL."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dash import html

from app.addresses import Features
from app.components import latents
from app.components.panel import reading_button

if TYPE_CHECKING:
    from app.session import Dictionary
    from saes.index.records import Page

PER_PAGE = 50
COLUMNS = (
    ("Latent", "latent", "Number of the latent in the SAE."),
    ("Best concept", "f1", "The concept that the latent, at its best threshold, detects with the highest F1."),
    ("Density", "density", "Share of the tokens read on which it is above zero. The bar is logarithmic."),
    ("Maximum", "maximum", "Largest activation on the tokens read. The bar is relative to this page's largest."),
    ("Fires on", "", "The most frequent tokens at the peaks of its top examples."),
    ("Promotes", "", "The tokens whose logits it raises most, along the direct path."),
)


def table(dictionary: "Dictionary", state: Features, page: "Page") -> list[Any]:
    """What the filters leave."""
    if not page.rows:
        return [html.P("No latent fits these filters.", className="notice")]
    maximum = max(row["maximum"] for row in page.rows)
    columns = [column for column in COLUMNS if column[1] != "f1" or dictionary.index.summary.concepts]
    body = [latents.row(dictionary.name, row, maximum, len(columns) == len(COLUMNS)) for row in page.rows]
    head = html.Tr([heading(state, *column) for column in columns])
    grid = html.Table([html.Thead(head), html.Tbody(body)], className="rows features")
    return [html.Div(grid, className="panel scroll"), pager(state, page.total)]


def heading(state: Features, name: str, sort: str, why: str) -> html.Th:
    """A column's name, a link that sorts by it, and what the column means."""
    if not sort:
        return html.Th([name, " ", reading_button(why)])
    here = state.sort == sort
    up = here and state.order == "up"
    order = "up" if here and not up else "down"
    arrow = (" ↑" if up else " ↓") if here else ""
    link = html.A(name + arrow, href=replace(state, sort=sort, order=order, page=1).href(), className="sort")
    direction = {"aria-sort": "ascending" if up else "descending"} if here else {}
    return html.Th([link, " ", reading_button(why)], **direction)


def pager(state: Features, total: int) -> html.Nav:
    """Where in the rows one is, and the way to the others."""
    pages = -(-total // PER_PAGE)
    first = PER_PAGE * (max(state.page, 1) - 1) + 1
    span = html.Span(f"{first:,} to {min(first + PER_PAGE - 1, total):,} of {total:,} latents", className="hint")
    steps = [("First", 1), ("Previous", state.page - 1), ("Next", state.page + 1), ("Last", pages)]
    links = [
        html.A(name, href=replace(state, page=to).href(), className="chip")
        if 1 <= to <= pages and to != state.page
        else html.Span(name, className="chip off")
        for name, to in steps
    ]
    return html.Nav([span, *links], className="samples pager", **{"aria-label": "Pages of the table"})
