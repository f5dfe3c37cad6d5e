"""Faithfulness: how much of the model's behaviour a circuit has, at each size.

f(C) = (m(C) - m(∅)) / (m(N) - m(∅)), with m the mean of the metric over examples, N the whole model and ∅ the circuit
of no edges. CPR and CMD are the areas of Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark"
(arXiv:2504.13151), over the *nominal* share k of edges, from .001 to 1, on a linear axis:

* CPR = ∫ f dk, how much a method finds that works for the behaviour; edges ranked by *signed* effect;
* CMD = ∫ |1 - f| dk, how far its circuits are from the model; edges ranked by *absolute* effect.

A perfect method has CPR ≥ 0.999 and CMD 0; a random one CPR 0.25 and CMD 0.75, as its circuits do nothing until they
are everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.experiment import Experiment
from circuits.graph import Edges
from circuits.scores.result import EdgeScores
from workbench.errors import SettingError
from workbench.metrics import KL

MIB_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the edges of the graph at which MIB evaluates."""


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Circuits of growing size, and what each does."""

    method: str
    ranking: str
    sizes: tuple[float, ...]
    """Nominal shares of the graph's edges."""
    n_edges: tuple[int, ...]
    """Edges taken at each size."""
    n_pruned: tuple[int, ...]
    """Of these, edges on a path from the input to the logits."""
    f: Float[Tensor, " size"]
    kl: Float[Tensor, " size"]
    """KL(model ‖ circuit) at the last position, in nats; the mean over examples."""
    metric: Float[Tensor, "size example"]
    facts: dict[str, Any]

    @property
    def cpr(self) -> float:
        """The area under f: higher is better. Of MIB's meaning if edges were ranked by signed effect."""
        return area(self.sizes, self.f)

    @property
    def cmd(self) -> float:
        """The area between f and 1: lower is better. Of MIB's meaning if edges were ranked by absolute effect."""
        return area(self.sizes, (1 - self.f).abs())

    def __str__(self) -> str:
        clean, ablated = self.facts["clean"], self.facts["ablated"]
        lines = [
            f"Faithfulness of {self.method}, {self.ranking} ranking, {self.facts['ablation']} ablation",
            f"  {self.facts['metric']} {clean:.4f} of the model, {ablated:.4f} with every edge ablated",
            "   share     edges    pruned        f       KL",
        ]
        for row in zip(self.sizes, self.n_edges, self.n_pruned, self.f.tolist(), self.kl.tolist(), strict=True):
            lines.append("  {:>6.3f}  {:>8,}  {:>8,}  {:>7.3f}  {:>7.4f}".format(*row))
        return "\n".join([*lines, f"CPR {self.cpr:.3f}   CMD {self.cmd:.3f}"])

    def to_json(self) -> dict[str, Any]:
        columns = {"share": self.sizes, "edges": self.n_edges, "pruned": self.n_pruned}
        columns |= {"f": self.f.tolist(), "kl": self.kl.tolist()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        about = {"method": self.method, "ranking": self.ranking, **self.facts}
        return {**about, "cpr": self.cpr, "cmd": self.cmd, "sizes": rows}


def area(sizes: Sequence[float], heights: Float[Tensor, " size"]) -> float:
    """The area under straight lines between points, from the first size to the last."""
    return float(torch.trapezoid(heights.double(), torch.tensor(sizes, dtype=torch.float64)))


def recovered(experiment: Experiment, values: Float[Tensor, "*circuits example"]) -> Float[Tensor, "*circuits"]:
    """f of circuits, from the metric of each example. Raises `SettingError` if ablating everything changes nothing."""
    clean, ablated = float(experiment.clean.mean()), float(experiment.ablated.mean())
    if clean == ablated:
        raise SettingError(
            f"{experiment.metric.name} is {clean:.4g} with and without every edge: there is nothing to explain"
        )
    return (values.mean(-1) - ablated) / (clean - ablated)


def faithfulness(
    experiment: Experiment,
    scores: EdgeScores,
    *,
    ranking: str = "signed",
    sizes: Sequence[float] = MIB_SIZES,
) -> Faithfulness:
    """f, KL and the areas for circuits of the best edges, int(size · all edges) of them at each size.

    The scores are best of another experiment than this one, on other prompts. Raises `SettingError` for sizes that do
    not rise within 0..1.
    """
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 0 or sizes[-1] > 1:
        raise SettingError(f"sizes are {tuple(sizes)}; they must be shares from 0 to 1, rising")
    total = int(scores.graph.edges.sum()) * (len(scores.values) if scores.values.ndim > 2 else 1)
    counts = tuple(int(size * total) for size in sizes)
    circuits = [experiment.graph.prune(scores.top(count, ranking)) for count in counts]
    metric, kl = zip(*(measure(experiment, circuit) for circuit in circuits), strict=True)
    values = torch.stack(metric)
    return Faithfulness(
        scores.method,
        ranking,
        tuple(sizes),
        counts,
        tuple(int(circuit.sum()) for circuit in circuits),
        recovered(experiment, values),
        torch.stack(kl),
        values,
        experiment.facts,
    )


def measure(experiment: Experiment, circuit: Edges) -> tuple[Float[Tensor, " example"], Float[Tensor, ""]]:
    """The metric of each example with only the edges of a circuit in place, and the mean KL from the model."""
    if torch.equal(circuit, experiment.graph.edges.expand_as(circuit)):
        return experiment.clean, torch.zeros(())
    metric, kl = [], []
    for batch, logits in experiment.logits(circuit[None]):
        metric.append(batch.values(logits[0]).cpu())
        kl.append(KL(logits[0], batch.pairs, batch.clean.logits).cpu())
    return torch.cat(metric), torch.cat(kl).mean()


@dataclass(frozen=True, eq=False)
class RandomBaseline:
    """Random circuits of one size, beside the one in question."""

    n_edges: int
    f: Float[Tensor, " draw"]
    circuit: float | None = None
    """f of the circuit that they are compared with."""

    @property
    def interval(self) -> tuple[float, float]:
        """Where the middle 95% of random circuits lie."""
        low, high = torch.quantile(self.f, torch.tensor([0.025, 0.975])).tolist()
        return low, high

    @property
    def p_value(self) -> float | None:
        """The chance that a random circuit does as well: (1 + as good) / (1 + draws)."""
        if self.circuit is None:
            return None
        return (1 + int((self.f >= self.circuit).sum())) / (1 + len(self.f))

    def __str__(self) -> str:
        low, high = self.interval
        mean = f"f {float(self.f.mean()):z.3f} ({low:z.3f} to {high:z.3f})"
        text = f"{len(self.f)} random circuits of {self.n_edges:,} edges: {mean}"
        return text if self.circuit is None else f"{text}; this one {self.circuit:.3f}, p = {self.p_value:.3g}"


def random_baseline(
    experiment: Experiment,
    n_edges: int,
    *,
    draws: int = 20,
    seed: int = 0,
    circuit: Edges | None = None,
    by_position: bool = False,
) -> RandomBaseline:
    """f of circuits of `n_edges` edges drawn evenly from the graph, beside that of `circuit` if one is given.

    With `by_position`, the edges of each position are drawn for themselves.
    """
    exists = experiment.graph.edges
    exists = exists.expand(experiment.length, -1, -1) if by_position else exists
    total = int(exists.sum())
    if not 0 <= n_edges <= total:
        raise SettingError(f"n_edges is {n_edges}; it must be between 0 and {total}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(draws, *exists.shape, dtype=torch.bool)
    for circuit_drawn in drawn:
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[torch.randperm(total, generator=generator)[:n_edges]] = True
        circuit_drawn[exists] = chosen
    values = experiment.values(torch.stack([experiment.graph.prune(one) for one in drawn]))
    own = None if circuit is None else float(recovered(experiment, measure(experiment, circuit)[0]))
    return RandomBaseline(n_edges, recovered(experiment, values), own)
