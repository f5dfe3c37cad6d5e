"""The prompt's tokens, twice: hover one to see where it looks and who looks at it. `attention.js` does the hovering."""

import json
from typing import TYPE_CHECKING

from dash import html

from app.components import tokens

if TYPE_CHECKING:
    from workbench.attention import AttentionPatterns


def looks(result: "AttentionPatterns", layer: int, head: int) -> html.Section:
    """Two rows of tokens and the head's pattern, in thousandths, for the browser to tint them by."""
    pattern = (result.patterns[layer, head] * 1000).round().int().tolist()
    rows = [
        ("looks at", "Hover or focus a token: here, the tokens it looks at.", "forward"),
        ("is looked at by", "The tokens, later in the prompt, that look at it.", "backward"),
    ]
    return html.Section(
        [
            html.Div(
                [
                    html.Div([html.Span(name), html.Span(hint, className="hint")], className="look-name"),
                    _tokens(result),
                ],
                className=f"look {direction}",
            )
            for name, hint, direction in rows
        ],
        className="looks panel",
        **{"data-pattern": json.dumps(pattern, separators=(",", ":"))},
    )


def _tokens(result: "AttentionPatterns") -> html.Span:
    return tokens.text(result.strings, focusable=True)
