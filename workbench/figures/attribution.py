"""What the parts of a model, and the tokens of a prompt, add to an answer."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.errors import SettingError
from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten
from workbench.figures.theme import GREY, INDIGO, ROSE, SIGNED

if TYPE_CHECKING:
    from workbench.attribution import Attribution
    from workbench.integrated_gradients import InputAttribution

CELL_WIDTH = 52
"""Pixels that a token needs to be read in its cell."""


def bars(result: "Attribution", k: int = 16) -> go.Figure:
    """The `k` parts that add or take most."""
    ranked = result.ranked(k)
    names, values = [name for name, _ in ranked], [value for _, value in ranked]
    figure = blank(height=60 + 20 * len(ranked))
    figure.add_bar(
        x=values,
        y=list(range(len(ranked))),
        orientation="h",
        marker={"color": [INDIGO if value >= 0 else ROSE for value in values]},
        text=[f"{value:+.2f}" for value in values],
        textposition="outside",
        cliponaxis=False,
        customdata=list(map(label, names)),
        hovertemplate="<b>%{customdata}</b> %{x:+.4f}<extra></extra>",
        meta={"columns": {"y": {"part": names}, "x": "logits"}},
    )
    figure.update_yaxes(
        tickvals=list(range(len(ranked))),
        ticktext=[label(shorten(name, 36)) for name in names],
        autorange="reversed",
        showgrid=False,
        ticks="",
    )
    figure.update_xaxes(title_text=_unit(result), zeroline=True)
    n = sum(values[0].numel() for values in result.parts.values())
    return describe(
        figure,
        f"{result.question}, by {result.by}",
        f"y: the {len(ranked)} of {n:,} parts of the model that matter most. x: what each adds to the logits in "
        f"question, by the direct path only. All {n:,} add up to {result.total.mean():.3f}, which is the model's own"
        + (" before its soft cap." if _capped(result) else "."),
    )


def heads(result: "Attribution") -> go.Figure:
    """What each head adds, layer × head, and each MLP beside them. `result` is by head, or by source."""
    if result.by not in ("head", "source"):
        raise SettingError(f"a grid of heads shows an attribution by head, not by {result.by}")
    mean = result.mean
    values = (mean["head"] if "head" in mean else mean["head from"].sum(-1)).numpy()
    n_layers, n_heads = values.shape
    values = np.column_stack([values, np.full(n_layers, np.nan), mean["MLP"].numpy()])
    names = [f"H{head}" for head in range(n_heads)] + ["", "MLP"]
    limit = float(np.abs(values[:, :n_heads]).max()) or 1.0
    figure = blank(height=64 + 34 * n_layers)
    figure.add_heatmap(
        z=values.astype(np.float32),
        zmin=-limit,
        zmax=limit,
        colorscale=SIGNED,
        colorbar={"title": {"text": _unit(result)}},
        xgap=2,
        ygap=2,
        text=np.where(np.isnan(values), "", np.char.mod("%+.2f", values)).tolist() if n_heads <= 16 else None,
        texttemplate="%{text}" if n_heads <= 16 else None,
        textfont={"size": 11},
        customdata=[[f"L{layer} {name}" for name in names] for layer in range(n_layers)],
        hovertemplate="%{customdata}: %{z:+.4f}<extra></extra>",
        hoverongaps=False,
        meta={"columns": {"x": {"part": names}, "y": {"layer": list(range(n_layers))}, "z": "logits"}},
    )
    axis = {"showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(**axis, side="top", tickvals=list(range(len(names))), ticktext=names)
    figure.update_yaxes(**axis, autorange="reversed", dtick=1, tickprefix="L")
    return describe(
        figure,
        f"{result.question}, by head",
        "Rows: layers. Columns: heads, and the layer's MLP. Colour and number: what it adds to the logits in question, "
        "by the direct path only; rose takes away. The colours end at the strongest head, which an MLP may pass. "
        "Embeddings and biases, not shown, make up the rest of "
        f"{result.total.mean():.3f}.",
    )


def waterfall(result: "Attribution") -> go.Figure:
    """How the logits come about: embedding, then attention and MLP of each layer. `result` is by sublayer."""
    if result.by != "sublayer":
        raise SettingError(f"a waterfall shows an attribution by sublayer, not by {result.by}")
    mean = result.mean
    names = [kind for kind in ("embedding", "position") if kind in mean]
    values = [mean[kind].item() for kind in names]
    for layer in range(len(mean["MLP"])):
        for kind in ("attention", "MLP"):
            names.append(f"L{layer} {kind}")
            values.append(mean[kind][layer].item())
    for kind in ("norm bias", "unembedding bias"):
        if kind in mean:
            names.append(kind)
            values.append(mean[kind].item())
    reached = np.cumsum([0.0, *values])
    margin = 0.1 * (reached.max() - reached.min())
    figure = blank(height=380)
    figure.add_waterfall(
        x=[*names, "in all"],
        y=[*values, 0],
        measure=["relative"] * len(names) + ["total"],
        text=[f"{value:+.2f}" for value in values] + [f"{sum(values):.2f}"] if len(names) <= 30 else None,
        textposition="outside",
        cliponaxis=False,
        increasing={"marker": {"color": INDIGO}},
        decreasing={"marker": {"color": ROSE}},
        totals={"marker": {"color": GREY}},
        connector={"line": {"color": GREY, "width": 1}},
        hovertemplate="<b>%{x}</b> %{delta:+.4f}<br>so far %{final:.4f}<extra></extra>",
        meta={"columns": {"x": "part", "y": "logits"}},
    )
    figure.update_xaxes(tickangle=-40, showgrid=False, ticks="")
    figure.update_yaxes(title_text=_unit(result), zeroline=True, range=[reached.min() - margin, reached.max() + margin])
    return describe(
        figure,
        f"{result.question}: how it comes about",
        "x: what is added to the residual stream, in the model's order. y: what each adds to the logits in question, "
        "stacked on what was there before; indigo adds, rose takes away. The last bar is the model's own"
        + (", before its soft cap." if _capped(result) else "."),
    )


def tokens(result: "InputAttribution", example: int = 0) -> go.Figure:
    """What each token of a prompt adds, by integrated gradients and by gradient × input."""
    values = np.stack([result.integrated[example].numpy(), result.gradient[example].numpy()])
    strings = result.strings[example]
    n_pos = len(strings)
    limits = np.abs(values).max(axis=1, keepdims=True)
    shares = values / np.where(limits > 0, limits, 1)
    kinds = ["integrated", "gradient"]
    figure = blank(height=168)
    figure.add_heatmap(
        z=shares.astype(np.float32),
        zmin=-1,
        zmax=1,
        colorscale=SIGNED,
        showscale=False,
        xgap=2,
        ygap=4,
        text=[[f"{value:+.2f}" for value in row] for row in values],
        texttemplate="%{text}" if n_pos <= 64 else None,
        textfont={"size": 11},
        customdata=[[label(string) for string in strings]] * 2,
        hovertemplate="<b>%{customdata}</b> (%{x}), %{text}<extra></extra>",
        meta={
            "columns": {
                "x": {"position": list(range(n_pos)), "token": strings},
                "y": {"method": kinds},
                "z": "share of the largest",
                "cells": {"value": values.tolist()},
            }
        },
    )
    axis = {"showgrid": False, "zeroline": False, "ticks": ""}
    names = [label(shorten(string, 12)) for string in strings]
    figure.update_xaxes(**axis, tickvals=list(range(n_pos)), ticktext=names, tickangle=-40)
    figure.update_yaxes(**axis, tickvals=[0, 1], ticktext=kinds, autorange="reversed")
    whole = (result.value - result.baseline_value)[example].item()
    picture = describe(
        figure,
        f"{result.question}, by token",
        f"x: the tokens of the prompt. Numbers: what each adds to the metric, counted from {result.baseline} in place "
        "of its embedding; colour: the same as a share of the largest in the row; rose takes away. Upper row: "
        f"integrated gradients, which add up to {result.integrated[example].sum():.3f} of {whole:.3f}; lower row: the "
        "gradient at the prompt alone, times the same difference.",
    )
    picture.layout.meta |= {"min_width": 120 + (CELL_WIDTH * n_pos if n_pos <= 64 else 0)}
    return picture


def _capped(result: "Attribution") -> bool:
    return not bool((result.logits == result.before_cap).all())


def _unit(result: "Attribution") -> str:
    return "logits before the cap" if _capped(result) else "logits"
