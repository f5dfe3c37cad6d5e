"""The SAEs that are open: a table of what each is, on the start page, and a row of links between them elsewhere."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dash import html

from app.addresses import Features
from app.components.facts import bar, count, percent
from app.components.notice import command
from app.components.panel import reading_button

if TYPE_CHECKING:
    from app.session import Dictionary, Session

COLUMNS = (
    ("Site", "Where in the model the SAE reads and writes."),
    ("Kind", "Architecture."),
    ("Latents", "How many there are, and how many of them never fired while the index was built."),
    ("L0", "Mean number of latents that fire on a token."),
    ("FVU", "Fraction of the activations' variance that the SAE leaves unexplained."),
    ("Loss recovered", "Of the loss that is lost by zeroing the site, the share that splicing in the SAE wins back."),
    (
        "Concepts found",
        "Of the concepts labelled in the corpus, those that a latent detects with F1 of 0.8 or more.",
    ),
    ("Indexed", "Text tokens read to build the feature index."),
)


def dictionaries(session: "Session") -> Any:
    """One line an SAE; or how to train one."""
    if not session.dictionaries:
        train = f"workbench sae train --model {session.source} --site blocks.0.hook_resid_post --out runs/sae"
        hint = html.P("None is open. Train one, index it, and open it here with --sae.", className="hint")
        return html.Div([hint, command(train)], className="panel body-only")
    head = html.Tr([html.Th([name, " ", reading_button(why)]) for name, why in COLUMNS])
    rows = [row(dictionary) for dictionary in session.dictionaries]
    table = html.Table([html.Thead(head), html.Tbody(rows)], className="rows")
    return html.Div(table, className="panel scroll")


def row(dictionary: "Dictionary") -> html.Tr:
    """One SAE."""
    sae, index = dictionary.sae, dictionary.index
    link = html.A(sae.site, href=Features(sae=dictionary.name).href(), className="row-link")
    cells = [link, sae.architecture]
    if index is None:
        cells += [f"{sae.cfg.d_sae:,}", sae.cfg.k or "–", *measured(dictionary.report), "–", "no index yet"]
    else:
        summary, coverage = index.summary, index.coverage()
        found = f"{len(coverage.covered)} of {coverage.n_concepts}"
        cells += [
            [f"{summary.n_latents:,}", html.Span(f" {summary.n_dead:,} dead", className="hint")],
            f"{summary.l0:.1f}",
            *measured(dictionary.report),
            bar(coverage.share, found, "amber") if coverage.n_concepts else "–",
            [count(summary.n_tokens), html.Span(f" tokens of {summary.corpus}", className="hint")],
        ]
    return html.Tr([html.Td(cell) for cell in cells])


def measured(report: Mapping[str, Any]) -> list[str]:
    """FVU and loss recovered, from the report that training leaves."""
    fvu, recovered = report.get("fvu"), report.get("loss_recovered")
    return ["–" if fvu is None else f"{fvu:.3f}", "–" if recovered is None else f"{recovered:.1%}"]


def selector(session: "Session", current: "Dictionary", href: Callable[[str], str]) -> Any:
    """Links to the same page on every open SAE, the current one marked; nothing if there is only one."""
    if len(session.dictionaries) < 2:
        return None
    links = [
        html.A(
            dictionary.name,
            href=href(dictionary.name),
            className="chip",
            **({"aria-current": "true"} if dictionary is current else {}),
        )
        for dictionary in session.dictionaries
    ]
    return html.Nav([html.Span("SAE", className="hint"), *links], className="samples", **{"aria-label": "SAE"})


def summary_facts(dictionary: "Dictionary") -> dict[str, Any]:
    """What an index says of the SAE as a whole."""
    summary, coverage = dictionary.index.summary, dictionary.index.coverage()
    concepts = f"{len(coverage.covered)} of {coverage.n_concepts}" if coverage.n_concepts else None
    return {
        "site": summary.site,
        "latents": f"{summary.n_latents:,}",
        "dead": f"{summary.n_dead:,} ({percent(summary.n_dead / summary.n_latents)})",
        "L0": f"{summary.l0:.1f}",
        "concepts with F1 ≥ 0.8": concepts,
        "read": f"{count(summary.n_tokens)} tokens of {summary.corpus}",
    }
