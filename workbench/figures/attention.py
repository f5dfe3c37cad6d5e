"""Attention patterns: all heads side by side, and one head with its tokens."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten

if TYPE_CHECKING:
    from workbench.attention import AttentionPatterns

GAP = 0.16
"""Space between two tiles of the grid, as a share of a tile."""
CELLS = 2_000_000
"""The grid shows at most about so many; longer prompts are pooled."""


def grid(result: "AttentionPatterns") -> go.Figure:
    """Every head's pattern as a tile, layers downwards and heads across, drawn as one heat map.

    Tile (layer, head) covers the square from (head, layer) to (head + 1, layer + 1) less the gap, so a click at (x, y)
    falls on head ⌊x⌋ of layer ⌊y⌋. The figure's meta holds the grid's size and a tile's side.
    """
    patterns, block = _pooled(result.patterns.numpy())
    n_layers, n_heads, n_pos, _ = patterns.shape
    at = _tile_positions(n_pos)
    x = np.concatenate([head + at for head in range(n_heads)])
    y = np.concatenate([layer + at for layer in range(n_layers)])
    figure = blank(height=36 + 148 * n_layers)
    figure.add_heatmap(
        x=x,
        y=y,
        z=_tiles(_causal(patterns)),
        zmin=0,
        zmax=1,
        showscale=False,
        hoverinfo="none",
        meta={
            "columns": {
                "x": _along("head", "key", n_heads, n_pos, block),
                "y": _along("layer", "query", n_layers, n_pos, block),
                "z": "attention",
            }
        },
    )
    for layer in range(n_layers):
        for head in range(n_heads):
            figure.add_annotation(
                x=head + 1 - GAP, y=layer + 0.02, text=f"L{layer}H{head}", xanchor="right", yanchor="top"
            )
    ticks = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(**ticks, range=[-GAP / 2, n_heads - GAP / 2])
    figure.update_yaxes(**ticks, range=[n_layers - GAP / 2, -GAP / 2])
    figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0})
    figure = describe(
        figure,
        f"Attention of all {n_layers * n_heads} heads",
        "One tile a head; layers downwards, heads across. In a tile, y: the token that looks (query); x: the token it "
        "looks at (key), both in reading order. Colour: share of the row's attention, 0 to 1; "
        "every row sums to 1. The upper triangle is the future, which a causal model cannot see."
        + (f" A cell is the largest of {block} × {block} positions." if block > 1 else ""),
    )
    figure.layout.meta |= {"grid": [n_layers, n_heads], "side": 1 - GAP}
    return figure


def head(result: "AttentionPatterns", layer: int, head: int) -> go.Figure:
    """One head's pattern, query × key, with the tokens on both axes."""
    pattern = result.patterns[layer, head].numpy()
    n_pos = len(pattern)
    names = [label(shorten(string, 14)) for string in result.strings]
    looks_from, looks_at = np.meshgrid(names, names, indexing="ij")
    figure = blank(height=520)
    figure.add_heatmap(
        z=_causal(pattern),
        zmin=0,
        zmax=1,
        hoverongaps=False,
        customdata=np.stack([looks_from, looks_at], axis=-1),
        hovertemplate="<b>%{customdata[0]}</b> (%{y}) looks at <b>%{customdata[1]}</b> (%{x})"
        "<br>%{z:.3f} of its attention<extra></extra>",
        colorbar={"title": {"text": "attention"}},
        meta={
            "columns": {
                "x": {"key": list(range(n_pos)), "key token": result.strings},
                "y": {"query": list(range(n_pos)), "query token": result.strings},
                "z": "attention",
            },
        },
    )
    ticks = {"tickvals": list(range(n_pos)), "ticktext": names, "showgrid": False, "zeroline": False, "ticks": ""}
    if n_pos > 48:
        ticks = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(**ticks, title_text="looks at (key)", tickangle=-60, constrain="domain")
    figure.update_yaxes(
        **ticks,
        title_text="token (query)",
        autorange="reversed",
        scaleanchor="x",
        constrain="domain",
        constraintoward="top",
    )
    return describe(
        figure,
        f"Head {head} of layer {layer}",
        "y: the token that looks (query). x: the token it looks at (key). Colour: share of the query's attention, 0 to "
        "1; every row sums to 1. Cells above the diagonal are the future and stay empty.",
    )


def _tile_positions(n_pos: int) -> np.ndarray:
    """Coordinates, from a tile's corner, of its cells and of one empty cell that makes the gap."""
    cells = (np.arange(n_pos) + 0.5) / n_pos * (1 - GAP)
    return np.append(cells, 1 - GAP / 2)


def _tiles(patterns: np.ndarray) -> np.ndarray:
    """Heads laid out as one matrix [layer·(query+1), head·(key+1)], an empty row and column after each."""
    n_layers, n_heads, n_pos, _ = patterns.shape
    padded = np.pad(patterns, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return padded.transpose(0, 2, 1, 3).reshape(n_layers * (n_pos + 1), n_heads * (n_pos + 1))


def _along(outer: str, inner: str, n_outer: int, n_pos: int, block: int) -> dict[str, list[int | None]]:
    """What each row or column of the grid stands for (the first position of its block); the gaps for nothing."""
    return {
        outer: [number for number in range(n_outer) for _ in range(n_pos + 1)],
        inner: [*range(0, n_pos * block, block), None] * n_outer,
    }


def _pooled(patterns: np.ndarray) -> tuple[np.ndarray, int]:
    """Patterns small enough to send, and the side of the blocks of positions whose largest attention a cell shows."""
    n_layers, n_heads, n_pos, _ = patterns.shape
    block = -(-n_pos // max(1, int((CELLS / (n_layers * n_heads)) ** 0.5)))
    short = -n_pos % block
    padded = np.pad(patterns, ((0, 0), (0, 0), (0, short), (0, short)))
    side = (n_pos + short) // block
    return padded.reshape(n_layers, n_heads, side, block, side, block).max(axis=(3, 5)), block


def _causal(patterns: np.ndarray) -> np.ndarray:
    """Patterns as float32, with the future emptied when it holds no attention."""
    future = np.triu(np.ones(patterns.shape[-2:], dtype=bool), k=1)
    patterns = patterns.astype(np.float32, copy=True)
    if not patterns[..., future].any():
        patterns[..., future] = np.nan
    return patterns
