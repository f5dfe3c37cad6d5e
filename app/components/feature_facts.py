"""What an index knows of one latent besides its examples: concepts, logits, neighbours, partners, histogram."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from dash import html

from app.components import latents
from app.components.facts import bar
from app.components.panel import panel, reading_button
from app.theme import themed
from workbench.figures import features as figures

if TYPE_CHECKING:
    from app.session import Dictionary
    from saes.index.records import LatentRecord

CONCEPTS = (
    "How well “the activation is at least the threshold” detects a concept that the corpus labels: precision, recall "
    "and F1 over the {n:,} tokens read, at the threshold that makes F1 largest."
)
NEIGHBOURS = "The latents whose decoder directions have the largest cosine with this one's."
PARTNERS = "The latents that fire on the same tokens: the correlation φ of “fires”, yes or no, over {n:,} tokens."


def meaning(dictionary: "Dictionary", record: "LatentRecord") -> list[Any]:
    """The left column of the feature page."""
    summary = dictionary.index.summary
    effects = [
        [(effect.string, effect.effect) for effect in side] for side in (record.top_logits, record.bottom_logits)
    ]
    near = [
        latents.partner(dictionary.name, dictionary.rows[other.latent], other.cosine, f"{other.cosine:.2f}", "cosine")
        for other in record.neighbours[:6]
    ]
    together = [
        latents.partner(
            dictionary.name,
            dictionary.rows[other.latent],
            other.phi,
            f"{other.phi:.2f}",
            f"φ; both fire on {other.together:,} tokens, Jaccard {other.jaccard:.2f}",
        )
        for other in record.coactive[:6]
    ]
    return [
        _list("Concepts", CONCEPTS.format(n=summary.n_tokens), [_concept(score) for score in record.concepts]),
        panel("logits", _sourced(figures.logits(*effects), dictionary, record)) if any(effects) else None,
        _list("Nearest directions", NEIGHBOURS, near),
        _list("Fires together with", PARTNERS.format(n=summary.coactivation_tokens), together),
    ]


def histogram_panel(dictionary: "Dictionary", record: "LatentRecord") -> html.Section | None:
    """The histogram of activations; hovering a token anywhere on the page draws a line into it. None if dead."""
    if not record.n_active:
        return None
    figure = figures.histogram(record.histogram, record.bin_width, dictionary.index.summary.n_tokens)
    return panel("histogram", _sourced(figure, dictionary, record), className="histogram")


def _sourced(figure: go.Figure, dictionary: "Dictionary", record: "LatentRecord") -> go.Figure:
    source = {"model": dictionary.index.summary.model, "sae": dictionary.name, "latent": str(record.latent)}
    return themed(figure, **source)


def _concept(score: Any) -> html.Tr:
    more = f"precision {score.precision:.3f}, recall {score.recall:.3f}, threshold {score.threshold:.3g}"
    return html.Tr(
        [
            html.Td(bar(score.f1, f"{score.f1:.2f}"), **{"data-tip": more}),
            html.Td(html.Span(latents.spoken(score.concept), className="concept")),
            html.Td(f"P {score.precision:.2f}  R {score.recall:.2f}", className="hint number"),
        ]
    )


def _list(title: str, why: str, rows: list[html.Tr]) -> html.Section | None:
    """A framed short list; nothing if it is empty."""
    if not rows:
        return None
    return html.Section(
        [
            html.Header([html.H2(title), reading_button(why)]),
            html.Div(html.Table(html.Tbody(rows), className="plain short"), className="body"),
        ],
        className="panel",
    )
