"""Edge attribution patching: a first-order estimate of the effect of every edge, from one backward pass."""

from circuits.experiment import Experiment
from circuits.scores.gradients import at_points
from circuits.scores.result import EdgeScores


def eap(experiment: Experiment, *, by_position: bool = False) -> EdgeScores:
    """Gradients of the clean run (Syed et al. 2023, arXiv:2310.10348, eq. 3).

    One forward and one backward pass, beside the experiment's two runs. `by_position` tells edges of each position
    apart.
    """
    return at_points(experiment, [1.0], "eap", by_position)


def clean_corrupted(experiment: Experiment, *, by_position: bool = False) -> EdgeScores:
    """The mean of the gradients of the clean and of the ablated run (Hanna et al. 2024, arXiv:2403.17806, app.)."""
    return at_points(experiment, [0.0, 1.0], "clean-corrupted", by_position)
