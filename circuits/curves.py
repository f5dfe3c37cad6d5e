"""How faithful the circuits of a ranking are at every size, beside those of random rankings: CPR and CMD."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.experiment import Experiment
from circuits.faithfulness import MIB_SIZES, area, faithfulness
from circuits.methods import random_scores
from circuits.scores.result import EdgeScores


@dataclass(frozen=True, eq=False)
class Curves:
    """f at the sizes of MIB, edges ranked both ways (see `circuits.faithfulness`)."""

    method: str
    sizes: tuple[float, ...]
    n_edges: tuple[int, ...]
    signed: Float[Tensor, " size"]
    absolute: Float[Tensor, " size"]
    """The same as `signed` for a method that gives importances, which have no sign."""

    @property
    def cpr(self) -> float:
        """The area under f of the signed ranking: higher is better."""
        return area(self.sizes, self.signed)

    @property
    def cmd(self) -> float:
        """The area between f of the absolute ranking and 1: lower is better."""
        return area(self.sizes, (1 - self.absolute).abs())


@dataclass(frozen=True, eq=False)
class RandomCurves:
    """f at the same sizes of rankings drawn at random."""

    sizes: tuple[float, ...]
    f: Float[Tensor, "draw size"]

    @property
    def interval(self) -> Float[Tensor, "2 size"]:
        """Where the middle 95% of them lie, at each size."""
        return torch.quantile(self.f, torch.tensor([0.025, 0.975]), dim=0)

    @property
    def cpr(self) -> float:
        """The mean over draws."""
        return sum(area(self.sizes, f) for f in self.f) / len(self.f)

    @property
    def cmd(self) -> float:
        """The mean over draws."""
        return sum(area(self.sizes, (1 - f).abs()) for f in self.f) / len(self.f)


def curves(experiment: Experiment, scores: EdgeScores) -> Curves:
    """Run the circuits of a ranking on an experiment, best on other prompts than it was made from."""
    signed = faithfulness(experiment, scores)
    unsigned = scores.kind == "importance"
    absolute = signed if unsigned else faithfulness(experiment, scores, ranking="absolute")
    return Curves(scores.method, MIB_SIZES, signed.n_edges, signed.f, absolute.f)


def random_curves(experiment: Experiment, draws: int = 10, *, seed: int = 0, by_position: bool = False) -> RandomCurves:
    """The same for `draws` random rankings, of the edges of each position if `by_position`."""
    drawn = [
        faithfulness(experiment, random_scores(experiment, seed + draw, by_position=by_position)).f
        for draw in range(draws)
    ]
    return RandomCurves(MIB_SIZES, torch.stack(drawn))


def table(found: list[Curves], random: RandomCurves) -> str:
    """CPR and CMD of several methods beside random, the best CMD first."""
    rows = [(one.method, one.cpr, one.cmd) for one in sorted(found, key=lambda one: one.cmd)]
    rows.append(("random", random.cpr, random.cmd))
    width = max(len(name) for name, *_ in rows)
    lines = [f"{'method':<{width}}    CPR    CMD"]
    return "\n".join([*lines, *(f"{name:<{width}}  {cpr:5.3f}  {cmd:5.3f}" for name, cpr, cmd in rows)])
