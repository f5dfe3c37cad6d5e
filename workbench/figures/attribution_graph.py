"""Feature circuits: the graph, tokens across and layers upwards; and what turning its latents off comes to."""

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.text import label, shorten
from workbench.figures.theme import AMBER, GREY, INDIGO, ROSE

if TYPE_CHECKING:
    from circuits.attribution_graph.circuit import FeatureCircuit, Node
    from circuits.attribution_graph.confirmation import Confirmation

ROW, CELL = 78, 84
"""Pixels a layer is high, and a token wide at least."""
ACROSS = 5
"""Nodes side by side in a cell before they go on in a second line."""
MARKS = {
    "latent": ("circle", AMBER, "latent"),
    "error": ("diamond-open", GREY, "error"),
    "embedding": ("square", INDIGO, "embedding"),
    "logit": ("star", INDIGO, "logit"),
}
"""Symbol, colour and name of each kind of node."""
WIDTHS = ((0.2, 4.0, 0.85), (0.1, 2.4, 0.65), (0.03, 1.2, 0.45), (0.0, 0.6, 0.25))
"""Links that are this share of what goes into their target, or more, are drawn so wide and so opaque."""


def circuit(result: "FeatureCircuit", links: int = 200) -> go.Figure:
    """The nodes of a circuit in their token's column and layer's row, and its strongest `links`.

    A link's strength is its share of what the circuit has going into the link's target, whatever units that has.
    """
    x, y = _places(result.nodes)
    figure = blank(height=70 + ROW * (result.n_layers + 2), showlegend=True)
    share = _shares(result)
    drawn = np.argsort(-share, kind="stable")[:links]
    _draw_links(figure, result, drawn, share[drawn], x, y)
    for kind, (symbol, colour, name) in MARKS.items():
        numbers = [i for i, node in enumerate(result.nodes) if node.kind == kind]
        if numbers:
            nodes = [result.nodes[i] for i in numbers]
            figure.add_scatter(
                x=x[numbers],
                y=y[numbers],
                mode="markers",
                marker={"symbol": symbol, "color": colour, "size": 9 if kind != "logit" else 13},
                name=name,
                customdata=[_hover(result, i) for i in numbers],
                hovertemplate="%{customdata}<extra></extra>",
                meta={"columns": _columns(result, nodes)},
            )
    for i, node in enumerate(result.nodes):
        if node.kind == "logit":
            name = label(shorten(node.label, 16))
            figure.add_annotation(x=x[i], y=y[i] + 0.12, text=name, textangle=-50, xanchor="left", yanchor="bottom")
    ticks = {"showgrid": False, "zeroline": False, "ticks": ""}
    names = [label(shorten(string, 12)) for string in result.strings]
    n = len(names)
    figure.update_xaxes(**ticks, tickvals=list(range(n)), ticktext=names, range=[-0.6, n - 0.4], title_text="token")
    layers = ["embedding", *map(str, range(result.n_layers)), "logits"]
    figure.update_yaxes(
        showgrid=True,
        zeroline=False,
        ticks="",
        tickvals=list(range(-1, result.n_layers + 1)),
        ticktext=layers,
        range=[-1.4, result.n_layers + 0.8],
        title_text="MLP of layer",
    )
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, margin={"t": 30})
    left = len(result.weights) - len(drawn)
    figure = describe(
        figure,
        "Feature circuit",
        "Each column is a token of the prompt, each row the MLP of a layer; below are the embeddings of the tokens, "
        "above the logits of the next token. Amber circles: active transcoder latents. Grey diamonds: what a "
        "transcoder failed to reconstruct. A line is what its lower end contributes to the upper one with attention "
        "and norms held fixed: indigo raises it, rose lowers it; the wider, the larger its share of all that the "
        "circuit has going into the upper one." + (f" The {left:,} weakest links are not drawn." if left else ""),
    )
    figure.layout.meta |= {"min_width": 120 + CELL * n}
    return figure


def _places(nodes: "list[Node]") -> tuple[np.ndarray, np.ndarray]:
    """Where each node is drawn: spread out within its cell."""
    x, y = np.zeros(len(nodes)), np.zeros(len(nodes))
    cell = [(node.layer, node.position) for node in nodes]
    order = sorted(range(len(nodes)), key=lambda i: (cell[i], nodes[i].kind != "latent", nodes[i].index))
    for (layer, position), members in groupby(order, key=lambda i: cell[i]):
        members = list(members)
        lines = -(-len(members) // ACROSS)
        for place, i in enumerate(members):
            line, column = divmod(place, ACROSS)
            in_line = min(ACROSS, len(members) - line * ACROSS)
            x[i] = position + (column - (in_line - 1) / 2) * 0.78 / ACROSS
            y[i] = layer + ((lines - 1) / 2 - line) * 0.6 / max(lines, 3)
    return x, y


def _shares(result: "FeatureCircuit") -> np.ndarray:
    """The share of each link in what goes into its target."""
    targets, sizes = result.targets.numpy(), result.weights.abs().numpy()
    total = np.bincount(targets, sizes, minlength=len(result.nodes))
    return sizes / np.maximum(total[targets], 1e-30)


def _draw_links(
    figure: go.Figure, result: "FeatureCircuit", drawn: np.ndarray, share: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    """One trace for each width and sign: a line for every link."""
    weights = result.weights.numpy()[drawn]
    sources, targets = result.sources.numpy()[drawn], result.targets.numpy()[drawn]
    upper = np.inf
    for least, width, opacity in WIDTHS:
        for colour, signed in ((INDIGO, weights > 0), (ROSE, weights < 0)):
            chosen = signed & (share >= least) & (share < upper)
            if not chosen.any():
                continue
            ends = np.full((int(chosen.sum()), 3), np.nan)
            across, up = ends.copy(), ends.copy()
            across[:, 0], across[:, 1] = x[sources[chosen]], x[targets[chosen]]
            up[:, 0], up[:, 1] = y[sources[chosen]], y[targets[chosen]]
            figure.add_scatter(
                x=across.ravel(),
                y=up.ravel(),
                mode="lines",
                hoverinfo="skip",
                opacity=opacity,
                line={"color": colour, "width": width},
                showlegend=False,
                meta={"columns": _ends(result, drawn[chosen])},
            )
        upper = least


def _columns(result: "FeatureCircuit", nodes: "list[Node]") -> dict[str, dict[str, list]]:
    """What is known of each node, for the figure's table."""
    tokens = [result.strings[node.position] for node in nodes]
    return {
        "x": {"node": [node.name for node in nodes], "label": [node.label for node in nodes], "token": tokens},
        "y": {"layer": [node.layer for node in nodes], "value": [node.value for node in nodes]},
    }


def _ends(result: "FeatureCircuit", links: np.ndarray) -> dict[str, dict[str, list]]:
    """The two nodes and the weight of each link, at each of its two ends and at the gap behind it."""
    names = [node.name for node in result.nodes]
    ends = {"from": [names[i] for i in result.sources[links]], "to": [names[i] for i in result.targets[links]]}
    ends = {title: [name for name in column for _ in range(3)] for title, column in ends.items()}
    return {"x": ends, "y": {"weight": result.weights[links].repeat_interleave(3).tolist()}}


def _hover(result: "FeatureCircuit", number: int) -> str:
    node = result.nodes[number]
    lines = [f"<b>{label(node.name)}</b> at {label(result.strings[node.position])}"]
    if node.kind == "latent" and node.label:
        lines.append(label(node.label))
    if node.value is not None:
        lines.append(f"{'probability' if node.kind == 'logit' else 'activation'} {node.value:.3g}")
    for title, ends in (("from", result.into(number)), ("to", result.out_of(number))):
        lines += [f"{title} {label(other.name)} {weight:+.3g}" for other, weight in ends[:5]]
    return "<br>".join(lines)


KINDS = {
    "named": ("named by the graph", AMBER),
    "as_active": ("others in the same layers, as active", GREY),
    "same_place": ("others in the same layers and positions", INDIGO),
}
"""What is turned off in a confirmation, and its colour."""


def flips(result: "Confirmation") -> go.Figure:
    """How often the answer flips when the latents that a graph names are turned off, and when others are."""
    figure = blank(height=320, showlegend=True, barmode="group")
    sizes = [str(size) for size in result.sizes]
    for kind, (name, colour) in KINDS.items():
        share = result.flips(kind).tolist()
        figure.add_bar(
            x=sizes,
            y=share,
            name=name,
            marker={"color": colour},
            text=[f"{value:.0%}" for value in share],
            textposition="outside",
            hovertemplate=f"%{{x}} latents off, {name}: %{{y:.0%}}<extra></extra>",
            meta={"columns": {"x": "latents off", "y": f"share flipped, {name}"}},
        )
    figure.update_xaxes(type="category", title_text="latents turned off", showgrid=False)
    figure.update_yaxes(range=[0, 1.12], tickformat=".0%", title_text="answers that flip")
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin={"t": 34})
    return describe(
        figure,
        f"Turning latents off: {result.task}",
        f"{len(result.clean)} prompts that the model answers rightly. For each, its graph ranks the latents by what "
        "they do to the logit of the answer less that of the distractor, along all paths. x: how many are turned "
        "off, in the model itself, everything after them recomputed. y: the share of prompts whose distractor then has "
        "the higher logit. Grey and indigo: as many other latents.",
    )


def foretold(result: "Confirmation") -> go.Figure:
    """The logit difference that a graph predicts with latents turned off, and the one that is measured."""
    figure = blank(height=420, showlegend=True)
    values = np.stack([result.predicted.numpy(), result.named.numpy()])
    ends = [float(values.min()), float(values.max())]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        name="as predicted",
        line={"color": GREY, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
    shades = np.linspace(0.35, 1.0, len(result.sizes))
    for i, size in enumerate(result.sizes):
        figure.add_scatter(
            x=values[0, :, i],
            y=values[1, :, i],
            mode="markers",
            name=f"{size} off",
            marker={"color": AMBER, "opacity": shades[i], "size": 6, "symbol": i},
            hovertemplate=f"{size} latents off<br>predicted %{{x:.2f}}, measured %{{y:.2f}}<extra></extra>",
            meta={"columns": {"x": "predicted logit difference", "y": "measured logit difference"}},
        )
    figure.update_xaxes(title_text="logit difference that the graph predicts")
    figure.update_yaxes(title_text="measured in the model")
    return describe(
        figure,
        f"Predicted and measured: {result.task}",
        "Each point is a prompt with some of its latents turned off. x: the logit of the answer less that of the "
        "distractor that the graph predicts, following paths of every length with attention and norms held fixed and "
        "no latent switching. y: the one measured in the model, where nothing is held. Below 0 the answer has flipped.",
    )
