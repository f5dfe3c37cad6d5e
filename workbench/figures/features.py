"""Latents of a sparse autoencoder: how often and how strongly they fire, and what they write to the logits."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten
from workbench.figures.theme import AMBER, INDIGO, ROSE


def histogram(counts: Sequence[int], bin_width: float, n_tokens: int) -> go.Figure:
    """How strongly one latent fires when it fires: bin i counts tokens from i to i + 1 widths. `n_tokens` were read."""
    counts = np.asarray(counts, dtype=int)
    edges = np.arange(len(counts) + 1) * bin_width
    figure = blank(height=190)
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges) * 0.92,
        marker={"color": AMBER, "line": {"width": 0}},
        customdata=np.stack([edges[:-1], edges[1:]], axis=-1),
        hovertemplate="%{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:,} tokens<extra></extra>",
        meta={"columns": {"x": {"from": edges[:-1].tolist(), "to": edges[1:].tolist()}, "y": "tokens"}},
    )
    figure.update_xaxes(title_text="activation", showgrid=False, rangemode="tozero")
    tallest = max(counts.max(initial=1), 10)
    figure.update_yaxes(title_text="tokens (log)", type="log", dtick=1, range=[np.log10(0.6), np.log10(1.3 * tallest)])
    fired = int(counts.sum())
    return describe(
        figure,
        "Activation histogram",
        f"x: the latent's activation. y: number of tokens, on a log scale. Only tokens where it is above zero are "
        f"counted: {fired:,} of the {n_tokens:,} that the index read ({fired / max(n_tokens, 1):.3%}).",
    )


def logits(top: Sequence[tuple[str, int | float]], bottom: Sequence[tuple[str, int | float]]) -> go.Figure:
    """The tokens whose logits a latent raises and lowers most, strongest first."""
    pairs = [*top, *reversed(bottom)]
    values = [value for _, value in pairs]
    figure = blank(height=34 + 19 * len(pairs))
    figure.add_bar(
        x=values,
        y=list(range(len(pairs))),
        orientation="h",
        marker={"color": [INDIGO if value >= 0 else ROSE for value in values]},
        customdata=[label(token) for token, _ in pairs],
        hovertemplate="<b>%{customdata}</b> %{x:+.3f}<extra></extra>",
        meta={"columns": {"y": {"token": [token for token, _ in pairs]}, "x": "logit effect"}},
    )
    names = [label(shorten(token, 16)) for token, _ in pairs]
    figure.update_yaxes(
        tickvals=list(range(len(pairs))), ticktext=names, autorange="reversed", showgrid=False, ticks=""
    )
    figure.update_xaxes(title_text="effect on the logit", zeroline=True)
    figure.update_layout(dragmode=False)
    return describe(
        figure,
        "Logit effects",
        "y: tokens, the most raised above and the most lowered below. x: what the latent's decoder direction, alone "
        "and scaled to root mean square 1, adds to the logit through the final norm and the unembedding, less its mean "
        "over the vocabulary. The direct path only: later layers are passed over.",
    )


def densities(density: Sequence[int | float], n_tokens: int) -> go.Figure:
    """How many latents fire how often, over the whole SAE. `density` is each latent's share of tokens."""
    density = np.asarray(density, dtype=float)
    alive = density[density > 0]
    low = np.floor(np.log10(alive.min())) if len(alive) else -4.0
    counts, edges = np.histogram(np.log10(alive), bins=np.linspace(low, 0, 41))
    figure = blank(height=150)
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges) * 0.9,
        customdata=np.stack([10 ** edges[:-1], 10 ** edges[1:]], axis=-1),
        hovertemplate="%{customdata[0]:.2%} to %{customdata[1]:.2%} of tokens: %{y:,} latents<extra></extra>",
        meta={
            "columns": {"x": {"from": (10 ** edges[:-1]).tolist(), "to": (10 ** edges[1:]).tolist()}, "y": "latents"}
        },
    )
    ticks = np.arange(low, 1)
    figure.update_xaxes(
        title_text="share of tokens it fires on (log)",
        tickvals=ticks,
        ticktext=[f"{10**tick:.{max(0, int(-tick - 2))}%}" for tick in ticks],
        showgrid=False,
    )
    figure.update_yaxes(title_text="latents")
    dead = len(density) - len(alive)
    return describe(
        figure,
        "Densities",
        f"x: density, the share of the {n_tokens:,} tokens read on which a latent is above zero, on a log scale. "
        f"y: number of latents, of {len(density):,}. {dead:,} never fired and are not drawn.",
    )
