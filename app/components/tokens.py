"""Tokens as running text, tinted by a number each."""

from collections.abc import Sequence
from math import log10
from typing import Any

from dash import html

from workbench.figures.text import visible

CLOSING, OPENING = frozenset(".,;:!?)]}”’'"), frozenset("([{“‘")
"""Signs that have no space before or after them where tokens are words."""


def tint(value: int | float, top: int | float) -> float:
    """Strength of a token's tint, 0 to 1: logarithmic, so that weak activations stay visible beside strong ones."""
    if value <= 0 or top <= 0:
        return 0.0
    return 0.06 + 0.94 * log10(1 + 9 * min(value / top, 1.0))


def spaced(strings: Sequence[str]) -> bool:
    """Whether tokens are whole words without their spaces, so that the display has to set them apart."""
    return not any(string[:1].isspace() for string in strings)


def gap(left: str, right: str) -> bool:
    """Whether a space belongs between two tokens that are whole words or signs."""
    return right not in CLOSING and left not in OPENING


def text(
    strings: Sequence[str],
    values: Sequence[int | float] | None = None,
    top: int | float = 0,
    *,
    peak: int | None = None,
    window: tuple[int, int] | None = None,
    unit: str = "activation",
    focusable: bool = False,
    documents: Sequence[int] | None = None,
    notes: Sequence[str] | None = None,
    picked: int | None = None,
) -> html.Span:
    """Tokens in reading order. `values` tints them on the scale up to `top`; `peak` is underlined.

    `notes` say something of each token in its tooltip and make it one to pick; `picked` is the one that was.
    Tokens outside `window` (first, last + 1) are marked, so that a page can fold them away, and so are those of another
    document than the peak's.
    """
    apart = spaced(strings)
    children: list[Any] = []
    for position, string in enumerate(strings):
        value = None if values is None else values[position]
        outside = window is not None and not window[0] <= position < window[1]
        token = _token(string, position, value, top, position == peak, outside, unit)
        if documents is not None and peak is not None and documents[position] != documents[peak]:
            token.className += " other"
        if notes is not None:
            setattr(token, "data-tip", f"{visible(string)}   {notes[position]}")
        if position == picked:
            token.className += " here"
        if focusable or notes is not None:
            token.tabIndex = 0
        if apart and position and gap(strings[position - 1], string):
            folded = outside or (window is not None and position == window[0])
            children.append(html.Span(" ", className="far") if folded else " ")
        children.append(token)
    if window is not None:
        children = [*_ellipsis(window[0] > 0), *children, *_ellipsis(window[1] < len(strings))]
    return html.Span(children, className="tokens")


def _ellipsis(cut: bool) -> list[html.Span]:
    return [html.Span("… ", className="ellipsis")] if cut else []


def _token(
    string: str, position: int, value: int | float | None, top: int | float, peak: bool, outside: bool, unit: str
) -> html.Span:
    lead = len(string) - len(string.lstrip(" "))
    shown = " " * lead + (visible(string[lead:]) if string[lead:] else "")
    classes = ["tok", *(["peak"] if peak else []), *(["far"] if outside else [])]
    data: dict[str, Any] = {"data-at": position}
    if value is not None:
        data |= {"data-value": f"{value:.4g}", "data-tip": f"{visible(string)}   {unit} {value:.3g}"}
    style = {"--tint": f"{tint(value, top):.3f}"} if value else {}
    newline = [html.Br(className="far" if outside else "")] if "\n" in string else []
    return html.Span([shown, *newline], className=" ".join(classes), style=style, **data)
