"""Information flow routes: shares by hand, and routes against a search at every threshold."""

import pytest
import torch

from circuits.experiment import Experiment
from circuits.graph import transformer_graph
from circuits.scores.flow import flow_shares, information_flow, routes
from tests.circuits.conftest import OUTPUT, machine, one_pair


def test_shares_divide_what_is_read(experiment):
    shares = flow_shares(experiment)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)), atol=1e-5, rtol=0)
    assert (shares >= 0).all()


def test_the_logits_are_read_at_the_last_position_alone(experiment):
    shares, by_position = flow_shares(experiment), flow_shares(experiment, by_position=True)
    torch.testing.assert_close(by_position.mean(0)[:-1], shares[:-1], atol=1e-6, rtol=0)
    torch.testing.assert_close(by_position[-1, -1], shares[-1], atol=1e-6, rtol=0)
    assert not by_position[:-1, -1].any()


def test_shares_do_not_depend_on_how_many_positions_go_together(hooked, pairs, monkeypatch):
    experiment = Experiment(hooked("llama"), pairs)
    shares = flow_shares(experiment)
    monkeypatch.setattr("circuits.scores.flow.EXPANDED", 1)
    torch.testing.assert_close(flow_shares(experiment), shares, atol=1e-6, rtol=0)


def test_shares_and_routes_by_hand():
    """The block writes (2, 1) of the input (1, 0), so the output reads y = (3, 1).

    Without the input (2, 1) is left, without the block (1, 0): the proximities are 4 - 3 and 4 - 1. All that the block
    reads is the input, but that edge is worth no more than the block.
    """
    block = torch.tensor([[[2.0, 1.0], [0.0, 0.0]]])
    experiment = Experiment(
        machine([block], lambda stream: stream, torch.tensor([[1.0, 0.0], [0.0, 0.0]])), one_pair(), OUTPUT
    )
    assert flow_shares(experiment).tolist() == [[1.0, 0.0], [0.25, 0.75]]
    assert information_flow(experiment).values.tolist() == [[0.75, 0.0], [0.25, 0.75]]


GRAPHS = {
    "plain": transformer_graph(3, 2),
    "grouped queries": transformer_graph(2, 4, 2),
    "parallel": transformer_graph(2, 2, parallel=True),
    "attention alone": transformer_graph(2, 3, mlp=False),
}


def reached(graph, shares, threshold):
    """Edges that a walk back from the logits comes by, along edges of so large a share."""
    found, ahead, seen = set(), [len(graph.destinations) - 1], set()
    while ahead:
        destination = ahead.pop()
        if destination in seen:
            continue
        seen.add(destination)
        for source in range(int(graph.reads[destination])):
            if shares[destination, source] >= threshold:
                found.add((destination, source))
                ahead += [one for one in range(len(graph.destinations)) if graph.feeds[one, source]]
    return found


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("seed", range(3))
def test_routes_are_those_of_a_search_at_every_threshold(graph, seed):
    shares = torch.rand(graph.edges.shape, generator=torch.Generator().manual_seed(seed)) * graph.edges
    expected = torch.zeros_like(shares)
    for threshold in sorted(shares[graph.edges].tolist()):
        for edge in reached(graph, shares, threshold):
            expected[edge] = threshold
    assert torch.equal(routes(graph, shares), expected)


def test_a_node_counts_as_one_over_positions():
    """Both positions of the block's input are worth what the block is to the output at the last one."""
    graph = transformer_graph(1, 1, mlp=False)
    shares = torch.zeros(2, *graph.edges.shape)
    shares[:, :3, 0] = 1
    shares[1, 3] = torch.tensor([0.2, 0.8])
    values = routes(graph, shares)
    assert values[:, :3, 0].eq(0.8).all()
    assert values[:, 3].tolist() == [[0, 0], [pytest.approx(0.2), pytest.approx(0.8)]]
