"""Ablation: what the model loses with each part."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.figures.cells import AROUND_ZERO, cells
from workbench.figures.frame import describe

if TYPE_CHECKING:
    from workbench.ablation import AblationResult

TAKEN = {
    "zero": "set to zero",
    "mean": "set to its mean over all tokens of the study",
    "resample": "set to what it is in another prompt",
    "direction": "less its component along one direction",
}


def figure(result: "AblationResult") -> go.Figure:
    """The effect of ablating each part."""
    measure, unit = result.metric.replace("_", " "), f", in {result.unit}" if result.unit else ""
    return describe(
        cells(result),
        f"Ablation: {result.site}",
        f"Each part alone is {TAKEN[result.how]}. Effect: the change of the {measure} from that of the whole model "
        f"({result.whole.mean():.2f}){unit}; mean over {len(result.whole)} prompts ({result.on}). {AROUND_ZERO} "
        "Intervals: 95% bootstrap, over prompts.",
    )
