"""Influence, scores and pruning, on a graph small enough to work out by hand, and by matrix algebra on a big one."""

import pytest
import torch

from circuits.attribution_graph.graph import AttributionGraph, attribution_graph
from circuits.attribution_graph.influence import influence, scores, shares
from circuits.attribution_graph.pruning import prune
from tests.circuits.attribution_graph.conftest import random_transcoders
from workbench.errors import SettingError


@pytest.fixture
def by_hand() -> AttributionGraph:
    """Two latents in a chain, one dead end, one position: sources a, b, c, errors e0 e1, embedding t; one logit.

    a takes t 3 and nothing else; b takes a 1, e0 -1, t 2; c takes t 1; the logit takes b -3, e1 1, c 0, t 0.
    """
    edges = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0, 0.0, 3.0],
            [1.0, 0.0, 0.0, -1.0, 0.0, 2.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            [0.0, -3.0, 0.0, 0.0, 1.0, 0.0],
        ]
    )
    return AttributionGraph(
        model="hand",
        tokens=torch.tensor([7]),
        strings=["x"],
        prompt="x",
        n_layers=2,
        transcoders=[],
        latents=torch.tensor([[0, 0, 1], [1, 0, 2], [1, 0, 5]]),
        activations=torch.tensor([3.0, 2.0, 1.0]),
        logit_tokens=torch.tensor([9]),
        logit_strings=["y"],
        probabilities=torch.tensor([0.8]),
        edges=edges,
        bias=torch.zeros(4),
        left_out=torch.zeros(4),
        totals=edges.sum(1),
        n_active=3,
    )


def test_influence_and_scores_by_hand(by_hand: AttributionGraph):
    """The logit's 0.8 goes ¾ to b and ¼ to e1; b's 0.6 goes ¼ to a, ¼ to e0, ½ to t; a's 0.15 to t."""
    expected = [0.15, 0.6, 0.0, 0.15, 0.2, 0.45]
    reached = influence(shares(by_hand.edges), by_hand.probabilities)
    torch.testing.assert_close(reached, torch.tensor(expected))
    replaced, complete = by_hand.scores
    assert replaced == pytest.approx(0.45 / 0.8)
    error_in = 0.8 * 0.25 + 0.6 * 0.25
    assert complete == pytest.approx(1 - error_in / (sum(expected) + 0.8))


def test_pruning_by_hand(by_hand: AttributionGraph):
    """In order b 0.6, t 0.45, e1 0.2, a 0.15, e0 0.15, of 1.55 in all: 0.8 is reached with e1 (1.25)."""
    circuit = prune(by_hand, nodes=0.8, edges=1.0)
    assert [node.name for node in circuit.nodes] == ["L1#2@0", "error L1@0", "'x'@0", "→ 'y'"]
    assert [node.cumulative for node in circuit.nodes[:3]] == pytest.approx([0.6 / 1.55, 1.25 / 1.55, 1.05 / 1.55])
    links = list(zip(circuit.sources.tolist(), circuit.targets.tolist(), circuit.weights.tolist(), strict=True))
    assert sorted(links) == [(0, 3, -3.0), (1, 3, 1.0), (2, 0, 2.0)]
    assert circuit.into(3) == [(circuit.nodes[0], -3.0), (circuit.nodes[1], 1.0)]
    # of the links' flow b→y 0.6, t→b 0.6, e1→y 0.2, without the weakest an error has nowhere to lead
    fewer = prune(by_hand, nodes=0.8, edges=0.85)
    assert [node.name for node in fewer.nodes] == ["L1#2@0", "'x'@0", "→ 'y'"]


def test_a_loose_end_takes_what_hangs_on_it_along(by_hand: AttributionGraph):
    """Without links into the logit everything goes but the embedding and the logit."""
    circuit = prune(by_hand, nodes=1.0, edges=0.0)
    assert [node.kind for node in circuit.nodes] == ["embedding", "logit"]
    assert len(circuit.weights) == 0


def test_influence_is_the_inverse_of_one_minus_shares(hooked):
    graph = attribution_graph(hooked("gemma2"), torch.arange(40, 48), random_transcoders(hooked("gemma2")))
    n = graph.n_latents
    size = graph.edges.abs().double()
    share = size / size.sum(1, keepdim=True)
    total = graph.probabilities.double() @ share[n:]
    total += total[:n] @ torch.linalg.solve(torch.eye(n).double() - share[:n, :n], share[:n])
    torch.testing.assert_close(
        influence(shares(graph.edges), graph.probabilities).double(), total, atol=1e-5, rtol=1e-4
    )


def test_all_influence_starts_at_the_logits_and_ends_at_errors_and_embeddings(hooked):
    graph = attribution_graph(hooked("bloom"), torch.arange(40, 48), random_transcoders(hooked("bloom")))
    reached = influence(shares(graph.edges), graph.probabilities)
    assert reached[graph.n_latents :].sum().item() == pytest.approx(graph.probabilities.sum().item(), rel=1e-4)
    assert scores(graph.edges, graph.probabilities, graph.n_positions) == graph.scores


def test_a_pruned_circuit_keeps_what_it_promises(hooked):
    """Nodes and links are as few as have the shares asked for, and every latent lies between a source and a target."""
    graph = attribution_graph(hooked("neox"), torch.arange(40, 50), random_transcoders(hooked("neox")))
    reached = influence(shares(graph.edges), graph.probabilities)
    circuit = prune(graph, nodes=0.7, edges=0.9)
    counted = [node for node in circuit.nodes if node.kind != "logit"]
    assert {node.position for node in circuit.of_kind("embedding")} == set(range(10))
    ordered = reached.sort(descending=True).values
    enough = int((ordered.cumsum(0) < 0.7 * ordered.sum()).sum()) + 1
    assert len([node for node in counted if node.kind != "embedding"]) <= enough
    for number, node in enumerate(circuit.nodes):
        if node.kind == "latent":
            assert circuit.into(number)
            assert circuit.out_of(number)
        if node.kind == "error":
            assert circuit.out_of(number)
    assert 0 < len(circuit.weights) < (graph.edges != 0).sum()


def test_weights_are_the_edges_of_the_graph(hooked):
    graph = attribution_graph(hooked("llama"), torch.arange(40, 47), random_transcoders(hooked("llama")))
    circuit = prune(graph)
    column = {place: i for i, place in enumerate(map(tuple, graph.latents.tolist()))}
    row = {("logit", token): graph.n_latents + i for i, token in enumerate(graph.logit_tokens.tolist())}

    def source(node) -> int:
        offsets = {"error": graph.n_latents + 7 * node.layer, "embedding": graph.first_embedding}
        place = (node.layer, node.position, node.index)
        return column[place] if node.kind == "latent" else offsets[node.kind] + node.position

    for from_, to, weight in zip(circuit.sources, circuit.targets, circuit.weights.tolist(), strict=True):
        target = circuit.nodes[to]
        key = (target.kind, target.index)
        at = row[key] if target.kind == "logit" else source(target)
        assert graph.edges[at, source(circuit.nodes[from_])].item() == weight


@pytest.mark.parametrize("shares", [{"nodes": 1.2}, {"edges": -0.1}])
def test_shares_outside_0_to_1_are_refused(by_hand: AttributionGraph, shares: dict[str, float]):
    with pytest.raises(SettingError, match="shares of the influence, between 0 and 1"):
        prune(by_hand, **shares)


def test_a_graph_says_what_it_is(by_hand: AttributionGraph):
    text = str(by_hand)
    assert "3 latents over 1 positions; by layer: 1 2" in text
    assert "replacement score 0.562" in text
    assert "'y' 0.800" in text
    assert "-3.000  L1#2@0" in str(prune(by_hand))


def test_labels_reach_latents(by_hand: AttributionGraph):
    circuit = prune(by_hand).labelled({(1, 2): "plural"})
    assert [node.label for node in circuit.nodes] == ["plural", "", "x", "y"]
