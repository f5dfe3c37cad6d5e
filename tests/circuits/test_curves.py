"""CPR and CMD: MIB's row "Random", 0.25 and 0.75, worked out by hand and met by random rankings."""

import pytest
import torch

from circuits.curves import random_curves
from circuits.experiment import Experiment
from circuits.faithfulness import MIB_SIZES, area
from workbench.model import load_model
from workbench.tinytown.tasks import task_prompts


def test_the_areas_of_nothing_and_of_everything():
    """A circuit that does nothing until it is the whole model has f = 0 at nine sizes and 1 at the last.

    Straight lines join the points. So f rises from 0 at half of the edges to 1 at all of them: a triangle of ½ · ½,
    and 0.25 is CPR. 1 - f is 1 from .001 to .5 and falls to 0 from there: CMD is .499 + .25.
    """
    random, perfect = torch.zeros(10), torch.ones(10)
    random[-1] = 1
    assert area(MIB_SIZES, random) == pytest.approx((1 - 0.5) / 2)
    assert area(MIB_SIZES, 1 - random) == pytest.approx((0.5 - 0.001) + (1 - 0.5) / 2)
    assert area(MIB_SIZES, perfect) == pytest.approx(0.999)
    assert area(MIB_SIZES, 1 - perfect) == 0


def test_what_each_size_counts_in_the_areas():
    """A point counts with half the way to its neighbours: f at 20% and 50% of the edges make up 60% of CPR."""
    counts = [area(MIB_SIZES, one) for one in torch.eye(10)]
    assert counts == pytest.approx([0.0005, 0.002, 0.004, 0.0075, 0.02, 0.04, 0.075, 0.2, 0.4, 0.25])
    assert sum(counts) == pytest.approx(0.999)


def test_random_rankings_score_as_mib_reports():
    """Random circuits of Tinytown do nothing up to a fifth of the edges, and next to nothing at half of them."""
    random = random_curves(Experiment(load_model("tinytown"), task_prompts("ioi", 16)), draws=10)
    at_half = random.f[:, MIB_SIZES.index(0.5)].mean()
    assert random.f[:, :-2].abs().max() < 0.01
    assert abs(at_half) < 0.05
    assert (random.f[:, -1] == 1).all()
    assert random.cpr == pytest.approx(0.25 + 0.4 * float(at_half), abs=0.005)
    assert random.cpr == pytest.approx(0.25, abs=0.02)
    assert random.cmd == pytest.approx(0.75, abs=0.02)
