"""The ways to score edges by name, each with one set of settings, so that they can be compared."""

from collections.abc import Callable
from dataclasses import replace

import torch
from tqdm import tqdm

from circuits.acdc import acdc
from circuits.experiment import Experiment
from circuits.scores.eap import clean_corrupted, eap
from circuits.scores.exact import exact_effects
from circuits.scores.flow import information_flow
from circuits.scores.ig import eap_ig_activations, eap_ig_inputs
from circuits.scores.masks import learned_masks
from circuits.scores.nodes import node_attribution
from circuits.scores.result import EdgeScores
from workbench.errors import SettingError, suggestion

THRESHOLDS = tuple(2.0**-power for power in range(1, 14))
"""Of `acdc_scores`: shares of the harm that ablating everything does, from a half down to 0.012%."""


def score_edges(
    experiment: Experiment, method: str, *, n_edges: int, seed: int = 0, by_position: bool = False
) -> EdgeScores:
    """Score every edge by a method's name, which the scores bear. `n_edges` and `seed` matter to `masks` and `random`.

    Raises `SettingError` for an unknown name, and for a method that does not tell positions apart if it should.
    """
    if method not in METHODS:
        raise SettingError(f"no method {method!r}{suggestion(method, METHODS)}; the methods are {', '.join(METHODS)}")
    if by_position and method not in BY_POSITION:
        raise SettingError(f"{method} does not tell positions apart; these methods do: {', '.join(BY_POSITION)}")
    scores = (
        BY_POSITION[method](experiment, by_position=True) if by_position else METHODS[method](experiment, n_edges, seed)
    )
    return replace(scores, method=method)


def node_scores(experiment: Experiment) -> EdgeScores:
    """An edge is as important as the less important of the two nodes that it joins, by `node_attribution`.

    So the first edges are those between the first nodes. The input and the logits are in every circuit.
    """
    graph = experiment.graph
    effects = node_attribution(experiment, steps=5).values.abs()
    effects[0] = effects.max()
    reads = (graph.feeds * effects).amax(1)
    reads[-1] = effects.max()
    values = torch.minimum(effects, reads[:, None]) * graph.edges
    return EdgeScores(graph, values, "nodes", experiment.facts, kind="importance")


def acdc_scores(experiment: Experiment, thresholds: tuple[float, ...] = THRESHOLDS) -> EdgeScores:
    """The largest threshold at which ACDC keeps an edge, 0 if none (as Conmy et al. 2023 trace their curves).

    Thresholds are given as shares of the harm that ablating every edge does. The circuits of falling thresholds all but
    contain each other, so this ranks edges as their points on a curve do. Edges that no threshold keeps come last, in
    no order.
    """
    harm = abs(float(experiment.ablated.mean()) - float(experiment.clean.mean()))
    values = torch.zeros(experiment.graph.edges.shape)
    for threshold in tqdm(sorted(thresholds), desc="ACDC thresholds", leave=False):
        kept = acdc(experiment, threshold * harm).circuit.edges
        values[kept] = threshold
    return EdgeScores(experiment.graph, values, "acdc", experiment.facts, kind="importance")


def random_scores(experiment: Experiment, seed: int = 0, *, by_position: bool = False) -> EdgeScores:
    """Numbers from 0 to 1 that know nothing of the model: what a method must beat."""
    graph = experiment.graph
    shape = (*([experiment.length] if by_position else []), *graph.edges.shape)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * graph.edges
    return EdgeScores(graph, values, "random", experiment.facts, kind="importance")


METHODS: dict[str, Callable[[Experiment, int, int], EdgeScores]] = {
    "eap": lambda experiment, n_edges, seed: eap(experiment),
    "eap-ig": lambda experiment, n_edges, seed: eap_ig_inputs(experiment),
    "eap-ig-activations": lambda experiment, n_edges, seed: eap_ig_activations(experiment),
    "clean-corrupted": lambda experiment, n_edges, seed: clean_corrupted(experiment),
    "exact": lambda experiment, n_edges, seed: exact_effects(experiment),
    "nodes": lambda experiment, n_edges, seed: node_scores(experiment),
    "flow": lambda experiment, n_edges, seed: information_flow(experiment),
    "masks": lambda experiment, n_edges, seed: learned_masks(experiment, n_edges=n_edges, seed=seed),
    "acdc": lambda experiment, n_edges, seed: acdc_scores(experiment),
    "random": lambda experiment, n_edges, seed: random_scores(experiment, seed),
}

BY_POSITION: dict[str, Callable[..., EdgeScores]] = {
    "eap": eap,
    "eap-ig": eap_ig_inputs,
    "eap-ig-activations": eap_ig_activations,
    "clean-corrupted": clean_corrupted,
    "flow": information_flow,
}
"""Those that can score the edges of each position for themselves."""
