"""ACDC: walk the graph from the logits to the input, and drop every edge whose ablation does little harm.

Conmy et al. 2023, "Towards Automated Circuit Discovery for Mechanistic Interpretability" (arXiv:2304.14997).

As published it runs the model once for each edge, one after the other. Here the next removals are tried *cumulatively*
in one batch, with a guess for each of whether it will be accepted: up to the first wrong guess, every run of the batch
is just the run that the published algorithm would have made. So the circuit is the same, in far fewer runs one after
the other. The first guess is that an edge is dropped; the runs after a wrong guess, made for an edge too few or too
many, are still good for guessing what they will come to.
Layers before the edge are not run at all: nothing in them has been touched yet. Edges into a node whose output has
become unused are dropped unseen, as their effect is zero.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm import tqdm

from circuits.circuit import Circuit
from circuits.experiment import Experiment
from circuits.graph import Graph
from workbench.errors import SettingError


@dataclass(frozen=True, eq=False)
class AcdcResult:
    """The circuit that ACDC ends with."""

    circuit: Circuit
    """As found; `circuit.pruned()` is without dead ends."""
    threshold: float
    tested: int
    """Edges whose removal was decided by a run; the others lead to nodes that nothing reads."""
    runs: int
    """Circuits run, bets that were lost included."""
    passes: int
    """Batches of runs, one after the other; one too large for memory is run in parts. The published algorithm needs one
    for each edge of the graph."""

    def __str__(self) -> str:
        edges = self.circuit.graph.n_edges
        work = (
            f"{edges:,} edges in {self.passes:,} passes, one after the other ({edges / self.passes:.0f} edges a pass)"
        )
        return f"ACDC at threshold {self.threshold:g}: {work}\n{self.circuit}"

    def to_json(self) -> dict[str, Any]:
        counts = {"threshold": self.threshold, "tested": self.tested, "runs": self.runs, "passes": self.passes}
        return {**counts, "circuit": self.circuit.to_json()}


def published_order(graph: Graph) -> Int[Tensor, "edge 2"]:
    """(destination, source) of every edge: from the logits back to the input, and for each the latest source first."""
    return graph.edges.nonzero().flip(0)


def acdc(
    experiment: Experiment,
    threshold: float,
    *,
    order: Int[Tensor, "edge 2"] | None = None,
    at_once: int = 32,
) -> AcdcResult:
    """Drop an edge if the harm of the circuit without it is less than `threshold` above that of the circuit with it.

    Harm is the mean of the experiment's metric over its examples, counted in the direction in which ablating everything
    moves it: KL as it is, a logit difference negated. `order` is the order of the edges (`published_order` unless
    given), which must go back through the graph stage by stage. `at_once` is the most removals that are tried in a
    batch; with 1 it is the published algorithm, run by run, and any other number gives the same circuit.
    Raises `SettingError`.
    """
    if at_once < 1:
        raise SettingError(f"at_once is {at_once}; it must be at least 1")
    graph = experiment.graph
    order = published_order(graph) if order is None else order
    stage_of = torch.tensor([number for number, span in enumerate(graph.spans) for _ in span.destinations])
    stages = stage_of[order[:, 0]]
    if sorted(map(tuple, order.tolist())) != sorted(map(tuple, graph.edges.nonzero().tolist())):
        raise SettingError("order must hold every edge of the graph once, as (destination, source)")
    if (stages.diff() > 0).any():
        raise SettingError("order must go back through the graph, from the logits to the first layer")
    sign = 1.0 if float(experiment.ablated.mean()) > float(experiment.clean.mean()) else -1.0
    search = _Search(experiment, sign, threshold, at_once)
    with tqdm(total=len(order), desc="ACDC", unit="edge", leave=False) as progress:
        for number in reversed(range(len(graph.spans))):
            here = order[stages == number]
            alive = _alive(graph, search.edges)[here[:, 0]]
            search.edges[tuple(here[~alive].T)] = False
            progress.update(int((~alive).sum()))
            search.stage(here[alive], graph.spans[number].reads, progress)
    facts = {"method": "acdc", "threshold": threshold, **experiment.facts}
    return AcdcResult(Circuit(graph, search.edges, facts), threshold, search.tested, search.runs, search.passes)


def _alive(graph: Graph, edges: Bool[Tensor, "destination source"]) -> Bool[Tensor, " destination"]:
    """Destinations from which the logits can be reached."""
    alive = torch.zeros(len(edges), dtype=torch.bool)
    alive[-1] = True
    for span in reversed(graph.spans[:-1]):
        rows = slice(span.destinations.start, span.destinations.stop)
        columns = slice(span.sources.start, span.sources.stop)
        alive[rows] = (graph.feeds[rows, columns] & edges[alive][:, columns].any(0)).any(1)
    return alive


class _Search:
    """The edges that are left, and the harm that has been done."""

    def __init__(self, experiment: Experiment, sign: float, threshold: float, at_once: int) -> None:
        self.experiment, self.sign, self.threshold, self.at_once = experiment, sign, threshold, at_once
        self.edges = experiment.graph.edges.clone()
        self.harm = sign * float(experiment.clean.double().mean())
        self.width = at_once
        self.tested = self.runs = self.passes = 0

    def stage(self, order: Int[Tensor, "edge 2"], known: int, progress: tqdm) -> None:
        """Decide on the edges into one stage; none into earlier ones have been dropped."""
        guesses = [True] * len(order)
        start = 0
        while start < len(order):
            some = slice(start, start + self.width)
            decided = self._bet(order[some], guesses, start, known)
            start += decided
            progress.update(decided)
            progress.set_postfix(left=int(self.edges.sum()), passes=self.passes)

    def _bet(self, bet: Int[Tensor, "k 2"], guesses: list[bool], start: int, known: int) -> int:
        """Decide on edges in turn up to the first wrong guess, and guess the rest anew; returns how many it decided."""
        guess = guesses[start : start + len(bet)]
        circuits = self.edges.repeat(len(bet), 1, 1)
        for number, (destination, source) in enumerate(bet.tolist()):
            circuits[number : None if guess[number] else number + 1, destination, source] = False
        harms = (self.sign * self.experiment.values(circuits, known=known).double().mean(1)).tolist()
        self.passes += 1
        self.runs += len(bet)
        before, right, decided = self.harm, True, 0
        for number, harm in enumerate(harms):
            drop = harm - before < self.threshold
            if right:
                decided += 1
                self.edges[tuple(bet[number])] = not drop
                self.harm = harm if drop else self.harm
                right = drop == guess[number]
            else:
                guesses[start + number] = drop
            if guess[number]:
                before = harm
        self.tested += decided
        self.width = min(2 * self.width, self.at_once) if right else max(1, self.width // 2)
        return decided
