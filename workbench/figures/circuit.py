"""Circuits: the graph, layer upon layer, and where the scores lie."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.figures.frame import blank, describe
from workbench.figures.theme import GREY, INDIGO, ROSE, SIGNED

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.scores.result import EdgeScores

ROW = 62
"""Pixels from a layer of heads to its MLP, and from there to the next."""
MLP_AT = 0.9
"""Where the MLPs stand, of the half width of a row of heads, to the right of the heads."""
WIDTHS = ((0.5, 5.0, 0.9), (0.2, 3.0, 0.75), (0.06, 1.8, 0.65), (0.0, 1.0, 0.5))
"""Edges that have this share of the largest score, or more, are drawn so wide and so opaque."""
PARTS = {"q": ("solid", -1, "queries"), "k": ("dash", 0, "keys"), "v": ("dot", 1, "values")}
"""What an edge into a head feeds: the line's dash, whether it arrives at the left or the right, and its name."""
PORT = 0.009
"""How far apart these arrive, of the figure's width."""
BEND = np.linspace(0, 1, 17)
CROWD = 20
"""Units beside each other from which on they are small and bear no names."""


def graph(circuit: "Circuit", scores: "EdgeScores") -> go.Figure:
    """The nodes of the model, those of the circuit strong, and the circuit's edges with their scores."""
    nodes, edges, values = circuit.graph, _flat(circuit.edges), _flat(scores.importance("signed"))
    places = _places(nodes.sources)
    layers = 1 + max((_layer(name) for name in nodes.sources[1:]), default=0)
    figure = blank(height=110 + ROW * (2 * layers + 1), showlegend=True)
    inside = set(circuit.nodes) | {"logits"}
    _draw_edges(figure, circuit, edges, values, places)
    _draw_nodes(figure, circuit, values, places, inside)
    named = [f"{kind}{layer}" for layer in range(layers) for kind in ("heads ", "MLP ")]
    hidden = {"showgrid": False, "zeroline": False}
    figure.update_yaxes(
        **hidden,
        tickvals=list(range(2 * layers + 2)),
        ticktext=["input", *named, "logits"],
        range=[-0.6, 2 * layers + 1.6],
    )
    figure.update_xaxes(**hidden, showticklabels=False)
    figure.update_layout(
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemsizing": "constant", "itemwidth": 42},
        margin={"t": 34},
    )
    return describe(
        figure,
        "The circuit",
        "The model from the input at the bottom to the logits on top; faint nodes are not in the circuit. A line is an "
        "edge of the circuit: indigo works for the answer, rose against it; the wider, the larger its score. Edges "
        "into a head: solid lines feed its queries, dashed ones its keys, dotted ones its values. Point at a node or "
        "at the dot on an edge for its name and score.",
    )


def heat(scores: "EdgeScores") -> go.Figure:
    """The scores of all edges, summed by the layers that they join."""
    nodes, values = scores.graph, _flat(scores.importance("signed"))
    rows, columns = [_group(name) for name in nodes.destinations], [_group(name) for name in nodes.sources]
    down, across = list(dict.fromkeys(rows)), list(dict.fromkeys(columns))
    z, exists = np.zeros((len(down), len(across))), np.zeros((len(down), len(across)), dtype=bool)
    where = np.ix_([down.index(name) for name in rows], [across.index(name) for name in columns])
    np.add.at(z, where, values)
    np.logical_or.at(exists, where, nodes.edges.numpy())
    z[~exists] = np.nan
    top = float(np.nanmax(np.abs(z))) or 1.0
    figure = blank(height=120 + 22 * len(down))
    figure.add_heatmap(
        z=z,
        x=across,
        y=down,
        colorscale=SIGNED,
        zmin=-top,
        zmax=top,
        xgap=2,
        ygap=2,
        colorbar={"title": {"text": "sum of scores"}},
        hovertemplate="%{x} → %{y}: %{z:+.3f}<extra></extra>",
        meta={"columns": {"x": "from", "y": "to", "z": "sum of scores"}},
    )
    figure.update_xaxes(title_text="from", showgrid=False, zeroline=False, type="category")
    figure.update_yaxes(title_text="to", showgrid=False, zeroline=False, type="category")
    return describe(
        figure,
        "Where the scores lie",
        "Each cell is the sum of the scores of all edges, in the circuit or not, from the nodes of one layer (below) "
        "to what those of another read (left): indigo works for the answer, rose against it. Empty: no edges.",
    )


def positions(circuit: "Circuit", scores: "EdgeScores") -> go.Figure:
    """Of a circuit by position: what each node's edges come to at each position."""
    names = circuit.nodes
    rows = [circuit.graph.sources.index(name) for name in names]
    values = (scores.importance("signed") * circuit.edges).sum(1).numpy()[:, rows].T
    held = circuit.edges.any(1).numpy()[:, rows].T
    top = float(np.abs(values).max()) or 1.0
    figure = blank(height=90 + 22 * len(names))
    figure.add_heatmap(
        z=np.where(held, values, np.nan),
        y=names,
        colorscale=SIGNED,
        zmin=-top,
        zmax=top,
        xgap=2,
        ygap=2,
        colorbar={"title": {"text": "sum of scores"}},
        customdata=[circuit.facts["positions"]] * len(names),
        hovertemplate="%{y} at %{x} (%{customdata}): %{z:+.3f}<extra></extra>",
        meta={"columns": {"x": {"position": circuit.facts["positions"]}, "y": "node", "z": "sum of scores"}},
    )
    figure.update_xaxes(
        tickvals=list(range(values.shape[1])), ticktext=circuit.facts["positions"], showgrid=False, zeroline=False
    )
    figure.update_yaxes(showgrid=False, zeroline=False, type="category")
    return describe(
        figure,
        "At each position",
        "Each cell is the sum of the scores of the circuit's edges from a node (left, the earliest at the bottom) at a "
        "position (below, by the word that all prompts have there, or by what stands there): indigo works for the "
        "answer, rose against it. Empty: no edge of the circuit.",
    )


def _flat(values) -> np.ndarray:
    """Positions taken together."""
    if values.ndim > 2:
        values = values.any(0) if values.dtype.is_floating_point is False else values.sum(0)
    return values.numpy()


def _layer(name: str) -> int:
    return int(re.search(r"\d+", name)[0])


def _group(name: str) -> str:
    """`a0`, `a0 queries`, `m0`, or the name itself."""
    node, _, part = name.rstrip(">").partition("<")
    layer = node.split(".")[0]
    return f"{layer} {PARTS[part][2]}" if part else layer


def _places(sources: Sequence[str]) -> dict[str, tuple[float, float]]:
    """x and y of each node: the heads of a layer side by side; its MLP above them at the right, its units beside it."""
    heads = [int(name.split(".h")[1]) for name in sources if ".h" in name]
    half = (max(heads, default=0) + 1) / 2
    places = {"input": (0.0, 0.0)}
    units: dict[int, list[str]] = {}
    for name in sources[1:]:
        row = 2 * _layer(name) + 1
        places[name] = (int(name.split(".h")[1]) + 0.5 - half, row) if ".h" in name else (half + MLP_AT, row + 1)
        if _is_unit(name):
            units.setdefault(row + 1, []).append(name)
    for row, names in units.items():
        step = min(1.0, (2 * half + MLP_AT / 2) / max(len(names) - 1, 1))
        for number, name in enumerate(reversed(names)):
            places[name] = (half + MLP_AT / 2 - step * number, row)
    places["logits"] = (0.0, 1 + max(y for _, y in places.values()) if len(places) > 1 else 1)
    if not any(name.startswith("m") for name in sources[1:]):
        places["logits"] = (0.0, places["logits"][1] + 1)
    return places


def _is_unit(name: str) -> bool:
    """Whether a node is a neuron or a latent of an MLP."""
    return name[0] == "m" and "." in name and not name.endswith(".rest")


def _draw_edges(figure: go.Figure, circuit: "Circuit", edges: np.ndarray, values: np.ndarray, places: dict) -> None:
    """One trace for each width, sign and part; and a dot in the middle of each edge, to point at."""
    into, out = np.nonzero(edges)
    size = np.abs(values[into, out])
    share = size / max(size.max(initial=0.0), 1e-30)
    paths = [_path(circuit.graph, int(d), int(s), places) for d, s in zip(into, out, strict=True)]
    names = [circuit.graph.edge_name(int(d), int(s)) for d, s in zip(into, out, strict=True)]
    scores = values[into, out]
    parts = np.array([name.rpartition("<")[2][:1] if name.endswith(">") else "" for name in names])
    seen: set[tuple[str, str]] = set()
    upper = np.inf
    for least, width, opacity in WIDTHS:
        for colour, signed, meaning in ((INDIGO, scores >= 0, "for the answer"), (ROSE, scores < 0, "against it")):
            for part in ("", *PARTS):
                chosen = np.nonzero(signed & (share >= least) & (share < upper) & (parts == part))[0]
                if not len(chosen):
                    continue
                dash, _, reads = PARTS.get(part, ("solid", 0, "MLPs and logits"))
                gap = np.full((1, 2), np.nan)
                points = np.concatenate([np.concatenate([paths[i], gap]) for i in chosen])
                figure.add_scatter(
                    x=points[:, 0],
                    y=points[:, 1],
                    mode="lines",
                    opacity=opacity,
                    line={"color": colour, "width": width, "dash": dash},
                    hoverinfo="skip",
                    name=f"into {reads}, {meaning}",
                    legendgroup=f"{part}{meaning}",
                    showlegend=(part, meaning) not in seen,
                    meta={"columns": _columns(names, scores, chosen)},
                )
                seen.add((part, meaning))
        upper = least
    middles = np.array([path[6 + i % 5] for i, path in enumerate(paths)]).reshape(-1, 2)  # not all at one height
    figure.add_scatter(
        x=middles[:, 0],
        y=middles[:, 1],
        mode="markers",
        marker={"size": 5, "opacity": 0.55, "color": [INDIGO if score >= 0 else ROSE for score in scores]},
        customdata=[f"<b>{_plain(name)}</b><br>score {score:+.4f}" for name, score in zip(names, scores, strict=True)],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
        meta={"columns": {"x": {"edge": names}, "y": {"score": scores.tolist()}}},
    )


def _path(graph, destination: int, source: int, places: dict) -> np.ndarray:
    """A line from a source up to a destination, bent so that it does not run through the nodes between them."""
    name = graph.destinations[destination]
    x0, y0 = places[graph.sources[source]]
    if name == "logits":
        x1, y1 = places["logits"]
    else:
        fed = [places[graph.sources[number]] for number in graph.feeds[destination].nonzero()[:, 0].tolist()]
        x1, y1 = sum(x for x, _ in fed) / len(fed), fed[0][1]
        width = max(x for x, _ in places.values()) - min(x for x, _ in places.values())
        x1 += PARTS[name[-2]][1] * PORT * width if name.endswith(">") else 0.0
    rise = y1 - y0
    bow = 0.13 * rise if abs(x1 - x0) < 0.4 and rise > 1 else 0.0
    t = BEND
    # a cubic whose two ends are upright, so that lines leave and arrive vertically
    x = x0 + (x1 - x0) * (3 * t**2 - 2 * t**3) + bow * 4 * t * (1 - t)
    return np.stack([x, y0 + 0.14 + (rise - 0.28) * t], axis=1)


def _draw_nodes(figure: go.Figure, circuit: "Circuit", values: np.ndarray, places: dict, inside: set[str]) -> None:
    names = list(places)
    within = np.array([name in inside for name in names])
    at = np.array([places[name] for name in names])
    edges = _flat(circuit.edges)
    crowded = max(Counter(y for name, (_, y) in places.items() if _is_unit(name)).values(), default=0) > CROWD
    for strong in (False, True):
        chosen = [names[i] for i in np.nonzero(within == strong)[0]]
        where = at[within == strong]
        figure.add_scatter(
            x=where[:, 0],
            y=where[:, 1],
            mode="markers+text" if strong else "markers",
            text=["" if crowded and _is_unit(name) else _label(name) for name in chosen] if strong else None,
            textposition="middle center",
            textfont={"size": [8 if name[0] == "m" and "." in name else 10 for name in chosen], "color": "#ffffff"},
            marker={
                "symbol": ["square" if name in ("input", "logits") or name[0] == "m" else "circle" for name in chosen],
                "size": [_size(name, crowded) if strong else 9 for name in chosen],
                "color": "#525c6d" if strong else GREY,
                "opacity": 1 if strong else 0.35,
                "line": {"width": 0},
            },
            customdata=[_hover(circuit, edges, values, name) if strong else name for name in chosen],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
            meta={"columns": {"x": {"node": chosen}, "y": {"row": where[:, 1].tolist()}}},
        )


def _size(name: str, crowded: bool) -> int:
    return 34 if not _is_unit(name) else 12 if crowded else 26


def _label(name: str) -> str:
    """What stands on a node."""
    return name.split(".")[1] if _is_unit(name) else name


def _hover(circuit: "Circuit", edges: np.ndarray, values: np.ndarray, name: str) -> str:
    """A node and its strongest edges of the circuit, in and out."""
    graph, lines = circuit.graph, [f"<b>{name}</b>"]
    sides = []
    if name in graph.sources:
        number = graph.sources.index(name)
        reads = graph.feeds[:, number].numpy()
        sides.append(("to", [(d, number) for d in np.nonzero(edges[:, number])[0]]))
    else:
        reads = np.arange(len(graph.destinations)) == len(graph.destinations) - 1
    sides.insert(0, ("from", [(d, s) for d, s in np.argwhere(edges & reads[:, None])]))
    for title, pairs in sides:
        for d, s in sorted(pairs, key=lambda pair: -abs(values[pair]))[:4]:
            other = graph.destinations[d] if title == "to" else graph.edge_name(int(d), int(s)).replace("->", " → ")
            lines.append(f"{title} {_plain(other)} {values[d, s]:+.3f}")
    return "<br>".join(lines)


def _plain(name: str) -> str:
    """Without what plotly would read as a tag."""
    return name.replace("->", " → ").replace("<", " ").replace(">", "")


def _columns(names: list[str], scores: np.ndarray, chosen: np.ndarray) -> dict:
    """The name and score of each edge, at each of its points and at the gap behind them."""
    times = len(BEND) + 1
    return {
        "x": {"edge": [names[i] for i in chosen for _ in range(times)]},
        "y": {"score": np.repeat(scores[chosen], times).tolist()},
    }
