"""What flows where: rollout of one position through the layers, composition of heads, load of experts."""

from typing import TYPE_CHECKING, Literal

import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten
from workbench.figures.theme import INDIGO, ROSE

if TYPE_CHECKING:
    from workbench.attention_flow import Rollout
    from workbench.composition import Composition
    from workbench.routing import Routing

DIVERGING = [[0, ROSE], [0.5, "rgba(128,128,128,0.08)"], [1, INDIGO]]
CELL_WIDTH = 46
_PLAIN = {"showgrid": False, "zeroline": False, "ticks": ""}


def rollout(result: "Rollout", position: int = -1) -> go.Figure:
    """From which tokens one position comes, after each layer. By default the last position."""
    position %= len(result.strings)
    values = result.flow[:, position, : position + 1].numpy()
    n_layers, n_pos = values.shape
    names = [label(shorten(string, 12)) for string in result.strings[:n_pos]]
    figure = blank(height=96 + 34 * n_layers)
    figure.add_heatmap(
        z=values,
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        text=values,
        texttemplate="%{text:.2f}" if n_pos <= 24 else None,
        textfont={"size": 10},
        customdata=[names] * n_layers,
        hovertemplate="<b>%{customdata}</b> (%{x}), after layer %{y}: %{z:.3f}<extra></extra>",
        showscale=False,
        meta={
            "columns": {
                "x": {"position": list(range(n_pos)), "token": result.strings[:n_pos]},
                "y": "layer",
                "z": "share",
            }
        },
    )
    figure.update_xaxes(**_PLAIN, tickvals=list(range(n_pos)), ticktext=names, tickangle=-40)
    figure.update_yaxes(**_PLAIN, dtick=1, title_text="after layer")
    figure = describe(
        figure,
        f"Where {label(result.strings[position])!r} comes from",
        "y: layers, the first at the bottom. x: tokens of the prompt. Colour and number: share of the position's "
        "residual stream that comes from the token by attention rollout: each layer passes on half by the mean "
        "pattern of its heads and half by the residual stream. A row sums to 1.",
    )
    figure.layout.meta |= {"min_width": 90 + CELL_WIDTH * n_pos}
    return figure


def composition(result: "Composition", kind: Literal["q", "k", "v"]) -> go.Figure:
    """One kind of composition of every earlier head with every later one, above chance."""
    scores = getattr(result, kind)
    n_layers, n_heads = scores.shape[:2]
    n = n_layers * n_heads
    values = scores.reshape(n, n).T.numpy()  # later heads downwards, earlier ones across
    names = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
    earlier, later = names[: n - n_heads], names[n_heads:]
    figure = blank(height=max(300, 70 + 22 * len(later)))
    largest = float(abs(scores[~scores.isnan()]).max()) if n_layers > 1 else 1.0
    figure.add_heatmap(
        z=values[n_heads:, : n - n_heads],
        x=earlier,
        y=later,
        zmin=-largest,
        zmax=largest,
        colorscale=DIVERGING,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate="%{x} → %{y}: %{z:+.3f}<extra></extra>",
        colorbar={"title": {"text": "above chance"}},
        meta={"columns": {"x": "earlier head", "y": "later head", "z": f"{kind} composition"}},
    )
    part = {"q": "queries", "k": "keys", "v": "values"}[kind]
    figure.update_xaxes(**_PLAIN, title_text="written by", tickangle=-60)
    figure.update_yaxes(**_PLAIN, title_text=f"read by the {part} of", autorange="reversed")
    return describe(
        figure,
        f"{kind.upper()}-composition",
        f"x: the earlier head. y: the later head. Colour: how far what the earlier one writes lies where the {part} of "
        f"the later one read, ‖product‖ / (‖left‖ ‖right‖), less {result.baseline:.3f}, which two such matrices have "
        "by chance.",
    )


def load(result: "Routing") -> go.Figure:
    """The share of tokens that each expert of each layer gets."""
    values = result.load.numpy()
    n_experts = values.shape[1]
    words = [[", ".join(map(label, strings[:5])) for strings in row] for row in result.top_strings]
    figure = blank(height=70 + 34 * len(result.layers))
    even = result.per_token / n_experts
    figure.add_heatmap(
        z=values,
        x=list(range(n_experts)),
        y=result.layers,
        zmin=0,
        zmax=1,
        xgap=2,
        ygap=2,
        text=values,
        texttemplate="%{text:.0%}" if n_experts <= 32 else None,
        customdata=words,
        hovertemplate="layer %{y}, expert %{x}: %{z:.1%} of tokens<br>%{customdata}<extra></extra>",
        showscale=False,
        meta={"columns": {"x": "expert", "y": "layer", "z": "load"}},
    )
    figure.update_xaxes(**_PLAIN, dtick=1 if n_experts <= 32 else None, title_text="expert")
    figure.update_yaxes(**_PLAIN, dtick=1, title_text="layer", autorange="reversed")
    return describe(
        figure,
        "Load of the experts",
        f"y: layers with a router. x: experts. Colour and number: share of {result.n_tokens:,} tokens that the router "
        f"sends to the expert, of which each token has {result.per_token}; an even load is {even:.0%}.",
    )
