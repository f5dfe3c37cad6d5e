"""The toy model of superposition: directions in the plane, their products, dimensionality, and the phase diagram."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from workbench.figures.frame import blank, describe
from workbench.figures.theme import AMBER, INDIGO, LIGHT, SIGNED

GEOMETRIES = {"alone": 1.0, "tetrahedron": 3 / 4, "triangle": 2 / 3, "pair": 1 / 2, "pentagon": 2 / 5}
"""The dimensionality of a feature in each arrangement."""


def directions(W: Float[np.ndarray, "model 2 feature"], density: Float[np.ndarray, " model"]) -> go.Figure:
    """Every feature as an arrow in the plane, one panel a model."""
    figure = _panels([f"density {p:.3g}" for p in density], height=230)
    for column, planes in enumerate(W, start=1):
        n = planes.shape[1]
        ends = np.stack([np.zeros((2, n)), planes, np.full((2, n), np.nan)], axis=2).reshape(2, -1)
        figure.add_scatter(
            x=ends[0],
            y=ends[1],
            mode="lines+markers",
            line={"color": INDIGO, "width": 2},
            marker={"size": [0, 6, 0] * n},
            customdata=np.repeat(np.arange(n), 3),
            hovertemplate="feature %{customdata}: %{x:.2f}, %{y:.2f}<extra></extra>",
            row=1,
            col=column,
            meta={"columns": {"x": "first dimension", "y": "second dimension"}},
        )
    limit = max(1.2, 1.1 * np.abs(W).max())
    figure.update_xaxes(range=[-limit, limit], showticklabels=False)
    figure.update_yaxes(range=[-limit, limit], showticklabels=False, scaleanchor="x", constrain="domain")
    return describe(
        figure,
        "Features in the plane",
        "Each arrow is a feature's direction: a column of W. Panels: models trained on inputs of the density written "
        "above. An arrow too short to see is a feature that the model leaves out.",
    )


def products(W: Float[np.ndarray, "model hidden feature"], density: Float[np.ndarray, " model"]) -> go.Figure:
    """W^T W of every model: the diagonal is what is represented, the rest is interference."""
    figure = _panels([f"density {p:.3g}" for p in density], height=230)
    for column, weights in enumerate(W, start=1):
        figure.add_heatmap(
            z=weights.T @ weights,
            zmin=-1,
            zmax=1,
            colorscale=SIGNED,
            showscale=column == len(W),
            hovertemplate="%{y} · %{x}: %{z:.2f}<extra></extra>",
            row=1,
            col=column,
            meta={"columns": {"x": "feature", "y": "feature", "z": "product"}},
        )
    figure.update_xaxes(showgrid=False, zeroline=False, showticklabels=False)
    figure.update_yaxes(showgrid=False, zeroline=False, showticklabels=False, autorange="reversed")
    return describe(
        figure,
        "Products of the features' directions",
        "Rows and columns: features, the most important first. Colour: W^T W, from -1 to 1. The diagonal is the "
        "squared norm, 1 for a feature that is represented; off it, features that share a dimension.",
    )


def dimensionality(
    density: Float[np.ndarray, " model"],
    dimensionality: Float[np.ndarray, "model feature"],
    per_feature: Float[np.ndarray, " model"],
) -> go.Figure:
    """Each feature's dimensionality, and the dimensions per feature, as inputs become sparser."""
    sparsity = 1 / density
    figure = blank(height=330)
    for name, value in GEOMETRIES.items():
        line = {"color": INDIGO, "width": 1, "dash": "dot"}
        figure.add_hline(y=value, line=line, annotation_text=name, annotation_position="top right")
    figure.add_scatter(
        x=np.repeat(sparsity, dimensionality.shape[1]),
        y=dimensionality.flatten(),
        mode="markers",
        marker={"color": INDIGO, "size": 4, "opacity": 0.5},
        hovertemplate="1/density %{x:.3g}: D %{y:.3f}<extra></extra>",
        meta={"columns": {"x": "1/density", "y": "dimensionality"}},
    )
    figure.add_scatter(
        x=sparsity,
        y=per_feature,
        mode="lines",
        line={"color": AMBER},
        hovertemplate="1/density %{x:.3g}: m/|W|² %{y:.3f}<extra></extra>",
        meta={"columns": {"x": "1/density", "y": "dimensions per feature"}},
    )
    figure.update_xaxes(type="log", title_text="1 / density: sparser to the right")
    figure.update_yaxes(title_text="dimensionality", range=[0, 1.05])
    return describe(
        figure,
        "Feature dimensionality",
        "x: 1/density of the inputs, on a log scale. Dots: dimensionality of each feature, |W_i|² over the squared "
        "products of its unit direction with every feature; 0 if it is left out. Amber line: hidden dimensions over "
        "|W|². Dotted lines: a feature alone, and in regular arrangements.",
    )


def phases(
    density: Float[np.ndarray, " density"],
    importance: Float[np.ndarray, " importance"],
    panels: Sequence[tuple[str, Float[np.ndarray, "importance density"], Float[np.ndarray, "importance density"]]],
) -> go.Figure:
    """What becomes of the second feature: left out, alone, or in superposition. A panel is (title, norm, overlap)."""
    figure = _panels([title for title, _, _ in panels], height=330, spacing=0.09)
    for column, (_, norm, overlap) in enumerate(panels, start=1):
        figure.add_heatmap(
            x=density,
            y=importance,
            z=norm.clip(0, 1) * (1 - 2 * overlap.clip(0, 1)),
            zmin=-1,
            zmax=1,
            colorscale=SIGNED,
            showscale=False,
            customdata=np.stack([norm, overlap], axis=-1),
            hovertemplate="density %{x:.3g}, importance %{y:.3g}: norm %{customdata[0]:.2f}, overlap "
            "%{customdata[1]:.2f}<extra></extra>",
            row=1,
            col=column,
            meta={"columns": {"x": "density", "y": "importance", "z": "norm (1 - 2 overlap)"}},
        )
    figure.update_xaxes(type="log", title_text="density")
    figure.update_yaxes(type="log", title_text="importance of the second")
    return describe(
        figure,
        "Phases of the second feature",
        "Two features, one dimension. x: density of the inputs; y: importance of the second feature, the first having "
        "1; both on log scales. Pale: the second is left out. Indigo: it has the dimension to itself. Rose: both share "
        "it, pointing opposite ways.",
    )


def _panels(titles: list[str], height: int, spacing: float = 0.03) -> go.Figure:
    figure = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=spacing)
    return figure.update_layout(template=LIGHT, height=height, margin_t=28)
