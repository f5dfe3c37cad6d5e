"""Latents in a table: what each fires on and how often."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from dash import html

from app.addresses import Feature
from app.components.facts import bar, percent
from workbench.figures.text import visible

GOOD = 0.5
"""The F1 from which on a latent is called by its best concept."""


def href(sae: str, latent: int) -> str:
    """The page of one latent."""
    return Feature(sae=sae, latent=latent).href()


def row(sae: str, latent: Mapping[str, Any], maximum: int | float, concepts: bool) -> html.Tr:
    """A line of the table of features. `maximum` is the largest activation in the table, for the bars."""
    cells = [
        html.A(f"{latent['latent']}", href=href(sae, latent["latent"]), className="row-link number"),
        *([concept(latent["concept"], latent["f1"])] if concepts else []),
        density(latent["density"]),
        bar(latent["maximum"] / maximum if maximum else 0, f"{latent['maximum']:.2f}", "amber"),
        words(latent["peaks"], "amber"),
        words(latent["promotes"], "indigo"),
    ]
    return html.Tr([html.Td(cell) for cell in cells], className="dead" if not latent["n_active"] else "")


def concept(name: str | None, f1: int | float | None) -> Any:
    """The best concept with its F1 as a bar, or a dash."""
    if name is None:
        return html.Span("–", className="hint")
    return html.Span([bar(f1, f"{f1:.2f}"), html.Span(spoken(name), className="concept")], className="concept-cell")


def density(share: int | float) -> Any:
    """How often it fires: the bar is logarithmic, from one token in a million to every token."""
    if share <= 0:
        return html.Span("never", className="hint")
    return bar(1 + log10(share) / 6, percent(share))


def words(strings: Sequence[str], hue: str) -> html.Span:
    """A few tokens as chips."""
    chips = [html.Span(visible(string), className=f"word {hue}") for string in strings]
    return html.Span(chips, className="words")


def spoken(concept: str) -> str:
    """A concept's name with spaces."""
    return concept.replace("_", " ")


def meaning(latent: Mapping[str, Any]) -> html.Span:
    """In a word what a latent is: its best concept if it is a good one, else the tokens that it peaks on."""
    if (latent["f1"] or 0) >= GOOD:
        return html.Span(spoken(latent["concept"]), className="concept")
    return words(latent["peaks"][:3], "amber")


def partner(sae: str, latent: Mapping[str, Any], share: int | float, text: str, more: str) -> html.Tr:
    """A line of a short list of latents, with how close each is."""
    return html.Tr(
        [
            html.Td(html.A(str(latent["latent"]), href=href(sae, latent["latent"]), className="row-link number")),
            html.Td(bar(share, text)),
            html.Td(meaning(latent)),
        ],
        **{"data-tip": more},
    )
