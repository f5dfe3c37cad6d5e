"""Short facts: a name and a value each."""

from collections.abc import Mapping
from typing import Any

from dash import html


def facts(items: Mapping[str, Any], className: str = "") -> html.Dl:
    """A description list laid out as a row of figures."""
    pairs = [html.Div([html.Dt(name), html.Dd(value)]) for name, value in items.items() if value is not None]
    return html.Dl(pairs, className=f"facts {className}")


def count(number: int | float) -> str:
    """A large number in three digits and a letter: 1,234,567 → 1.23M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{number:,.0f}"


def percent(share: int | float | None) -> str:
    """A share with enough digits to tell small ones apart: 0.25 → 25%, 0.00042 → 0.042%."""
    if share is None:
        return "–"
    if share == 0:
        return "0"
    return f"{share * 100:.2g}%" if share < 0.1 else f"{share * 100:.0f}%"


def bar(share: int | float, text: str, hue: str = "indigo") -> html.Span:
    """A number with a bar behind it, as wide as `share` (0 to 1)."""
    return html.Span(
        [html.Span(className=f"fill {hue}", style={"width": f"{max(0.0, min(share, 1.0)):.1%}"}), html.Span(text)],
        className="bar",
    )
