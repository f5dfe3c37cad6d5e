"""Texts on which a latent fires: the strongest first, then a fair sample of every range of its activations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dash import html

from app.components import tokens
from app.components.panel import reading_button
from app.components.tokens import spaced

if TYPE_CHECKING:
    from saes.index.records import Example, LatentRecord

BEFORE, AFTER = 14, 10
"""Tokens shown around the peak until the contexts are unfolded."""
WHY = (
    "Tint: activation on a logarithmic scale up to the latent's maximum, {maximum:.2f}. The number at the left is the "
    "largest activation in the text; its token is underlined. Equal passages are shown once. Ranges below the top are "
    "sampled uniformly."
)


def examples(record: "LatentRecord") -> html.Section:
    """All examples of a latent in groups."""
    if not record.examples:
        return html.Section(
            [html.Header(html.H2("Examples")), html.P("It never fired on the tokens read.", className="body hint")],
            className="panel",
        )
    unfold = html.Button(
        "Whole texts", type="button", className="quiet", **{"data-fold": "examples", "aria-pressed": "false"}
    )
    header = [html.H2("Examples"), reading_button(WHY.format(maximum=record.maximum)), unfold]
    groups = [group("Strongest", "", record.top_examples, record.maximum)]
    for number, band in reversed(list(enumerate(record.bands))):
        share = band.n_tokens / max(record.n_active, 1)
        name = f"{band.low:.2f} to {min(band.high, record.maximum):.2f}"
        note = f"{band.n_tokens:,} tokens, {share:.1%} of its activations"
        groups.append(group(name, note, record.sampled(number), record.maximum))
    return html.Section([html.Header(header), html.Div(groups, id="examples", className="examples")], className="panel")


def group(name: str, note: str, items: Sequence["Example"], maximum: int | float) -> Any:
    """Examples under one heading; nothing if there are none."""
    if not items:
        return None
    heading = html.H3([name, html.Span(note, className="hint")])
    return html.Div([heading, *(row(example, maximum) for example in items)], className="example-group")


def row(example: "Example", maximum: int | float) -> html.Div:
    """One text, with the tokens far from the peak folded away."""
    window = (max(0, example.peak - BEFORE), example.peak + AFTER + 1)
    paste = "".join(example.strings[window[0] : window[1]]) if not spaced(example.strings) else None
    paste = paste or " ".join(string for string in example.strings[window[0] : window[1]] if not string.startswith("<"))
    return html.Div(
        [
            html.Span(f"{example.maximum:.2f}", className="peak-value"),
            tokens.text(
                example.strings,
                example.activations,
                maximum,
                peak=example.peak,
                window=window,
                documents=example.documents,
            ),
            html.Button(
                "Try",
                type="button",
                className="quiet try",
                **{"data-paste": paste.strip(), "data-into": "feature-text", "data-tip": "Copy it into the box above"},
            ),
        ],
        className="example",
    )
