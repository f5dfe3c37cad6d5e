"""The truth table: how well every method finds the true edges of every model whose circuit is known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from tqdm import tqdm

from circuits.ablations import RESAMPLE, ZERO
from circuits.experiment import Experiment
from circuits.methods import METHODS, score_edges
from circuits.truth.edges import EdgeNames, behavioural_under
from circuits.truth.forced import ForcedCircuit, forced
from circuits.truth.known import KNOWN, KnownCircuit
from circuits.truth.roc import roc_of_scores
from workbench.errors import SettingError, suggestion
from workbench.metrics import LOGIT, Metric

PROGRAMS: dict[str, Callable[[], KnownCircuit | ForcedCircuit]] = {**KNOWN, forced.__name__: forced}
"""What methods are tried on: the compiled programs, and the model that was trained to have a circuit."""
DRAWS = 100
"""Rankings that the row of random scores is the mean of."""


@dataclass(frozen=True)
class Found:
    """How well one method tells the true edges of one program from the rest."""

    method: str
    program: str
    ablation: str
    """What the method had ablated edges replaced by."""
    truth: str
    """Which edges count as true (see `circuits.truth.edges`)."""
    n_true: int
    n_edges: int
    auroc: float
    """The chance that a true edge ranks above another, ties counting half."""
    auc: float
    """The pessimistic area of Conmy et al. 2023."""


@dataclass(frozen=True)
class TruthTable:
    """A `Found` for each method, program, ablation and truth."""

    found: tuple[Found, ...]
    metric: str

    def values(self, name: str) -> list[str]:
        """What `method`, `program`, `ablation` or `truth` may be, in the order of the table."""
        return list(dict.fromkeys(getattr(one, name) for one in self.found))

    def block(self, ablation: str, truth: str) -> dict[tuple[str, str], Found]:
        """What was found under an ablation, against a truth, by (method, program)."""
        chosen = (one for one in self.found if (one.ablation, one.truth) == (ablation, truth))
        return {(one.method, one.program): one for one in chosen}

    def __str__(self) -> str:
        lines = [f"AUROC and pessimistic AUC of edges, ranked by their effect on {self.metric}"]
        for ablation in self.values("ablation"):
            for truth in self.values("truth"):
                lines += self._lines(ablation, truth)
        return "\n".join(lines)

    def _lines(self, ablation: str, truth: str) -> list[str]:
        block = self.block(ablation, truth)
        programs = [name for name in self.values("program") if any(program == name for _, program in block)]
        if not programs:
            return []
        methods = self.values("method")
        width = max(map(len, methods))
        lines = ["", f"Methods under {ablation} ablation; true edges: {truth}"]
        lines.append(" " * width + "".join(f"  {name:>13}" for name in programs))
        counts = [block[methods[0], program] for program in programs]
        lines.append(" " * width + "".join(f"  {f'{one.n_true} of {one.n_edges}':>13}" for one in counts))
        for method in methods:
            row = [block[method, program] for program in programs]
            lines.append(f"{method:<{width}}" + "".join(f"  {f'{one.auroc:.3f} {one.auc:.3f}':>13}" for one in row))
        return lines

    def to_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "found": [asdict(one) for one in self.found]}


def truth_table(
    programs: Sequence[str] = tuple(KNOWN),
    methods: Sequence[str] = tuple(METHODS),
    *,
    metric: Metric = LOGIT,
    seed: int = 0,
) -> TruthTable:
    """Rank the edges of programs by methods, under zero and under resample ablation, against every kind of truth.

    A method that is told how many edges there are to find (`masks`) is told the number of behavioural ones under its
    own ablation. Of `forced`, a minute of training, the truth is known under resample ablation alone.
    Raises `SettingError` for an unknown name.
    """
    for name in programs:
        if name not in PROGRAMS:
            raise SettingError(f"no known circuit {name!r}{suggestion(name, PROGRAMS)}; they are {', '.join(PROGRAMS)}")
    found: list[Found] = []
    progress = tqdm(programs, desc="truth table", unit="program", leave=False)
    for name in progress:
        known = PROGRAMS[name]()
        for ablation in (ZERO, RESAMPLE):
            own = known.truths.get(behavioural_under(ablation))
            if own is None:
                continue
            experiment = Experiment(known.model, known.pairs, metric, ablation)
            for method in methods:
                progress.set_postfix_str(f"{name}, {ablation.name} ablation, {method}")
                found += _found(experiment, name, method, known.truths, len(own), seed)
    return TruthTable(tuple(found), metric.name)


def _found(
    experiment: Experiment, program: str, method: str, truths: Mapping[str, EdgeNames], n_edges: int, seed: int
) -> Iterator[Found]:
    """Of one method on one program, against each truth."""
    graph = experiment.graph
    draws = range(seed, seed + (DRAWS if method == "random" else 1))
    ranked = [score_edges(experiment, method, n_edges=n_edges, seed=draw).importance() for draw in draws]
    for truth, edges in truths.items():
        curves = [roc_of_scores(graph, values, edges) for values in ranked]
        auroc, auc = fmean(curve.auroc for curve in curves), fmean(curve.pessimistic for curve in curves)
        yield Found(method, program, experiment.ablation.name, truth, len(edges), graph.n_edges, auroc, auc)
