"""Neurons: one in full, and how many concepts neurons and latents are spread over."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten
from workbench.figures.theme import AMBER, GREY, INDIGO, LIGHT, ROSE

if TYPE_CHECKING:
    from workbench.neuron_pages import NeuronPage
    from workbench.selectivity import SelectivityComparison
    from workbench.unit_activity import Example

BEFORE, AFTER = 8, 2
"""Tokens of a context that are shown before and after its peak."""
CONTEXTS, TOKENS = 8, 8
"""Contexts and promoted tokens shown."""


def page(result: "NeuronPage") -> go.Figure:
    """One neuron: the contexts that trigger it, the spread of its activations, the tokens that it promotes."""
    examples = result.triggers[:CONTEXTS]
    figure = make_subplots(
        2,
        2,
        specs=[[{"colspan": 2}, None], [{}, {}]],
        row_heights=[0.6, 0.4],
        vertical_spacing=0.14,
        horizontal_spacing=0.16,
        subplot_titles=["contexts that trigger it", "activations", "tokens that it promotes"],
    )
    figure.update_layout(template=LIGHT, height=290 + 30 * len(examples), margin_t=28)
    figure.update_annotations(font_size=13)
    _add_contexts(figure, examples, result.sign)
    _add_histogram(figure, result)
    _add_promoted(figure, result)
    return describe(
        figure,
        result.name.capitalize(),
        f"Above: the contexts in which the neuron reaches furthest {'above' if result.sign > 0 else 'below'} zero, a "
        "row each, the token of the peak in the framed column; colour: the neuron's activation at each token, as a "
        "share of the largest shown. Below left: its activations over "
        f"{result.n_tokens:,} tokens, on a log scale. Below right: what its output row, alone and scaled to root mean "
        "square 1, adds to the logits directly, less the mean over the vocabulary; with the sign of its activation.",
    )


def _add_contexts(figure: go.Figure, examples: list["Example"], sign: int) -> None:
    columns = BEFORE + 1 + AFTER
    values, words = np.full((len(examples), columns), np.nan), [[""] * columns for _ in examples]
    for row, example in enumerate(examples):
        for column in range(columns):
            at = example.peak + column - BEFORE
            if 0 <= at < len(example.strings):
                values[row, column] = sign * example.activations[at]
                words[row][column] = label(shorten(example.strings[at], 11))
    largest = float(np.nanmax(values, initial=1e-6))
    figure.add_heatmap(
        z=np.maximum(values, 0) / largest,
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=3,
        text=words,
        texttemplate="%{text}",
        textfont={"size": 12},
        customdata=sign * values,
        hovertemplate="<b>%{text}</b> %{customdata:.2f}<extra></extra>",
        hoverongaps=False,
        showscale=False,
        row=1,
        col=1,
        meta={"columns": {"x": "token", "y": "context", "z": "share", "cells": {"text": words}}},
    )
    figure.add_shape(
        type="rect", x0=BEFORE - 0.5, x1=BEFORE + 0.5, y0=-0.5, y1=len(examples) - 0.5, row=1, col=1, line_width=1.5
    )
    hidden = {"showgrid": False, "zeroline": False, "ticks": "", "showticklabels": False}
    figure.update_xaxes(**hidden, row=1, col=1)
    ticks = [f"{example.value:+.1f}" for example in examples]
    figure.update_yaxes(
        **hidden | {"showticklabels": True, "tickvals": list(range(len(examples))), "ticktext": ticks},
        autorange="reversed",
        row=1,
        col=1,
    )


def _add_histogram(figure: go.Figure, result: "NeuronPage") -> None:
    seen = np.flatnonzero(result.counts)
    shown = slice(seen[0], seen[-1] + 1) if len(seen) else slice(0)
    low, high, counts = result.edges[:-1][shown], result.edges[1:][shown], result.counts[shown]
    figure.add_bar(
        x=(low + high) / 2,
        y=counts,
        width=(high - low) * 0.94,
        marker={"color": AMBER, "line": {"width": 0}},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="%{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:,} tokens<extra></extra>",
        row=2,
        col=1,
        meta={"columns": {"x": {"from": low.tolist(), "to": high.tolist()}, "y": "tokens"}},
    )
    figure.update_xaxes(title_text="activation", showgrid=False, row=2, col=1)
    tallest = max(counts.max(initial=1), 10)
    figure.update_yaxes(
        title_text="tokens (log)", type="log", dtick=1, range=[np.log10(0.6), np.log10(1.5 * tallest)], row=2, col=1
    )


def _add_promoted(figure: go.Figure, result: "NeuronPage") -> None:
    pairs = result.promoted[:TOKENS]
    figure.add_bar(
        x=[value for _, value in pairs],
        y=list(range(len(pairs))),
        orientation="h",
        marker={"color": INDIGO},
        customdata=[label(token) for token, _ in pairs],
        hovertemplate="<b>%{customdata}</b> %{x:+.3f}<extra></extra>",
        row=2,
        col=2,
        meta={"columns": {"y": {"token": [token for token, _ in pairs]}, "x": "logit effect"}},
    )
    names = [label(shorten(token, 16)) for token, _ in pairs]
    figure.update_yaxes(
        tickvals=list(range(len(pairs))), ticktext=names, autorange="reversed", showgrid=False, ticks="", row=2, col=2
    )
    figure.update_xaxes(title_text="effect on the logit", rangemode="tozero", row=2, col=2)


def spread(result: "SelectivityComparison") -> go.Figure:
    """How many concepts the units of two kinds are spread over."""
    figure = blank(height=300, showlegend=True, barmode="overlay", legend={"x": 0.98, "xanchor": "right", "y": 0.98})
    top = max(float(one.effective[one.alive].max()) for one in (result.first, result.second))
    edges = np.linspace(0, np.ceil(max(top, result.first.corpus)), 41)
    for one, colour in ((result.first, ROSE), (result.second, INDIGO)):
        effective = one.effective[one.alive].numpy()
        shares = np.histogram(effective, edges)[0] / max(len(effective), 1)
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=shares,
            width=np.diff(edges) * 0.94,
            name=label(f"{one.name}, median {np.median(effective):.1f}"),
            marker={"color": colour, "opacity": 0.62, "line": {"width": 0}},
            hovertemplate="%{x:.1f} concepts: %{y:.1%}<extra></extra>",
            meta={"columns": {"x": "effective number of concepts", "y": f"share of {one.name}"}},
        )
    figure.add_vline(x=result.first.corpus, line={"width": 1, "dash": "dot", "color": GREY})
    figure.update_xaxes(title_text="effective number of concepts", showgrid=False)
    figure.update_yaxes(title_text="share of units", tickformat=".0%")
    return describe(
        figure,
        "How many concepts units are spread over",
        "x: effective number of concepts of a unit, the exponential of the entropy of its energy over concepts; 1 is "
        "a unit that is active on one concept only. y: share of the units of each kind. Dotted line: a unit that is "
        f"active on all tokens alike. {label(result.first.name)} exceed {label(result.second.name)} in "
        f"{result.exceeds:.0%} of pairs.",
    )
