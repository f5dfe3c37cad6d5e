"""Where concepts can be read: probes by concept and site, the angles between them, and how directions carry over."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.frame import blank, describe
from workbench.figures.text import label
from workbench.figures.theme import GREY, INDIGO, LIGHT, ROSE

if TYPE_CHECKING:
    from workbench.linear_representation import Transfer
    from workbench.probing import Probes

MEASURES = {
    "auroc": (
        "AUROC",
        "the chance that a random token with the concept scores higher than a random one without",
    ),
    "f1": ("F1", "F1 at the threshold that is best on the other folds"),
    "balanced_accuracy": ("balanced accuracy", "the mean of the recalls on both sides; 0.5 is guessing"),
    "selectivity": ("selectivity", "F1 less that of a probe for labels drawn at random for each type of word"),
}
PLAIN_AXIS = {"showgrid": False, "zeroline": False, "ticks": ""}


def scores(result: "Probes", measure: str = "f1") -> go.Figure:
    """How well every concept is read at every site. `measure` is a key of `MEASURES`."""
    name, means = MEASURES[measure]
    values = getattr(result, measure)
    order = values[-1].argsort(descending=True, stable=True)
    names = [label(result.concepts[column].replace("_", " ")) for column in order.tolist()]
    sites = [label(short(site)) for site in result.sites]
    figure = blank(height=110 + 16 * len(names))
    figure.add_heatmap(
        z=values[:, order].T.numpy(),
        x=sites,
        y=names,
        zmin=0.5 if measure in ("auroc", "balanced_accuracy") else 0,
        zmax=1,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": name}},
        hovertemplate="<b>%{y}</b> at %{x}: %{z:.3f}<extra></extra>",
        meta={"columns": {"x": {"site": list(result.sites)}, "y": {"concept": names}, "z": name}},
    )
    figure.update_xaxes(**PLAIN_AXIS, side="top", type="category", tickangle=0 if len(sites) < 8 else -40)
    figure.update_yaxes(**PLAIN_AXIS, autorange="reversed", type="category", dtick=1)
    return describe(
        figure,
        f"Probes: {name}",
        f"Rows: concepts, those that the last site tells best on top. Columns: sites. Colour: {name}, {means}. "
        "Measured on documents that the probe was not trained on: "
        f"{result.n_rows:,} rows of {result.n_documents:,} documents.",
    )


def cosines(result: "Probes", site: str) -> go.Figure:
    """The cosine between the directions of every two concepts at a site."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    values = result.cosines(site).numpy()
    order = leaves_list(linkage(values, "average")) if len(values) > 2 else list(range(len(values)))
    names = [label(result.concepts[column].replace("_", " ")) for column in order]
    figure = blank(height=110 + 13 * len(names))
    figure.add_heatmap(
        z=values[order][:, order],
        x=names,
        y=names,
        zmin=-1,
        zmax=1,
        colorscale=[[0, ROSE], [0.5, "rgba(128,128,128,0.08)"], [1, INDIGO]],
        colorbar={"title": {"text": "cosine"}},
        hovertemplate="<b>%{y}</b> and <b>%{x}</b>: %{z:.2f}<extra></extra>",
        meta={"columns": {"x": {"concept": names}, "y": {"concept": names}, "z": "cosine"}},
    )
    figure.update_xaxes(**PLAIN_AXIS, type="category", dtick=1, tickangle=-90)
    figure.update_yaxes(**PLAIN_AXIS, autorange="reversed", type="category", dtick=1)
    return describe(
        figure,
        f"Angles between probes at {site}",
        "Rows and columns: concepts, those with similar directions side by side. Colour: the cosine between the "
        "normals of their probes, from -1, opposite, to 1, the same.",
    )


def transfer(result: "Transfer") -> go.Figure:
    """A tile for each site: directions found in one group (rows), tried on another (columns)."""
    sites = [label(short(site)) for site in result.sites]
    figure = make_subplots(1, len(sites), subplot_titles=sites, shared_yaxes=True, horizontal_spacing=0.03)
    figure.update_layout(template=LIGHT, height=140 + 56 * len(result.groups), margin={"t": 34})
    names = [label(name) for name in result.groups]
    for column, table in enumerate(result.auroc.numpy(), start=1):
        figure.add_heatmap(
            z=table,
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale=[[0, ROSE], [0.5, GREY], [1, INDIGO]],
            xgap=2,
            ygap=2,
            texttemplate="%{z:.2f}",
            colorbar={"title": {"text": "AUROC"}},
            showscale=column == len(sites),
            hovertemplate="found in <b>%{y}</b>, tried on <b>%{x}</b>: %{z:.3f}<extra></extra>",
            meta={
                "columns": {"x": {"tried on": names}, "y": {"found in": names}, "z": f"AUROC at {sites[column - 1]}"}
            },
            row=1,
            col=column,
        )
    figure.update_xaxes(**PLAIN_AXIS, type="category")
    figure.update_yaxes(**PLAIN_AXIS, autorange="reversed", type="category")
    figure.update_yaxes(title_text="found in", col=1)
    figure.update_xaxes(title_text="tried on")
    return describe(
        figure,
        "Does a direction carry over?",
        "Tiles: sites. Row: the group of texts that a direction was found in; column: the group that it is tried on. "
        "Colour and number: AUROC. 1: it tells the labels apart there as well; 0.5: it says nothing; 0: it says the "
        "opposite. On its own group it is tried on texts that it was not found in.",
    )


def short(site: str) -> str:
    """`blocks.3.hook_resid_post` as `3 resid_post`."""
    return site.removeprefix("blocks.").replace(".hook_", " ").replace("hook_", "")
