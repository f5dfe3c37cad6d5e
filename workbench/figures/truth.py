"""Which methods find the true edges of which programs: a heat map for each ablation and kind of truth."""

from typing import TYPE_CHECKING

from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from workbench.figures.frame import describe
from workbench.figures.theme import LIGHT

if TYPE_CHECKING:
    from circuits.truth.table import TruthTable


def figure(result: "TruthTable") -> Figure:
    """AUROC of every method (down) on every program (across). Columns: the methods' ablation; rows: the truth."""
    ablations, truths = result.values("ablation"), result.values("truth")
    methods, programs = result.values("method"), result.values("program")
    panels = [(truth, ablation) for truth in truths for ablation in ablations]
    picture = make_subplots(
        len(truths),
        len(ablations),
        subplot_titles=[f"{ablation} ablation; true: {truth}" for truth, ablation in panels],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.16 / len(truths),
    )
    for number, (truth, ablation) in enumerate(panels):
        block = result.block(ablation, truth)
        rows = [[block.get((method, program)) for program in programs] for method in methods]
        auroc = [[one and one.auroc for one in row] for row in rows]
        auc = [[one and one.auc for one in row] for row in rows]
        picture.add_heatmap(
            z=auroc,
            x=programs,
            y=methods,
            zmin=0.5,
            zmax=1,
            autocolorscale=True,
            showscale=number == 0,
            xgap=1,
            ygap=1,
            text=[["" if value is None else f"{value:.3f}" for value in row] for row in auroc],
            texttemplate="%{text}",
            textfont={"size": 11},
            customdata=auc,
            hovertemplate="<b>%{y}</b> on %{x}<br>AUROC %{z:.3f}, pessimistic AUC %{customdata:.3f}<extra></extra>",
            colorbar={"title": {"text": "AUROC"}},
            meta={"columns": {"x": "program", "y": "method", "z": "AUROC", "cells": {"pessimistic AUC": auc}}},
            row=1 + number // len(ablations),
            col=1 + number % len(ablations),
        )
    picture.update_layout(template=LIGHT, height=90 + (60 + 24 * len(methods)) * len(truths), margin={"t": 40})
    picture.update_annotations(font_size=12)
    lines = [name.replace("_", "<br>", 1).replace("_", " ") for name in programs]
    picture.update_xaxes(showgrid=False, zeroline=False, ticks="", tickvals=programs, ticktext=lines)
    picture.update_yaxes(showgrid=False, zeroline=False, ticks="", autorange="reversed")
    return describe(
        picture,
        "True edges found",
        "Each cell: AUROC, the chance that a true edge ranks above another one (ties count half): 1 every true edge "
        "first, 0.5 no better than chance, the ground. Left and right: what the method replaced ablated edges by. From "
        "above: which edges are true; structural edges are the wiring, behavioural ones change a logit if they alone "
        "are ablated. In the hover: the pessimistic AUC of Conmy et al. 2023.",
    )
