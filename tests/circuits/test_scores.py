"""Edge scores: identities that hold for any model, and machines worked out by hand."""

import pytest
import torch

from circuits.ablations import RESAMPLE, ZERO
from circuits.acdc import acdc
from circuits.experiment import Experiment
from circuits.runs import run_circuits
from circuits.scores.eap import clean_corrupted, eap
from circuits.scores.exact import exact_effects
from circuits.scores.gradients import at_gates, at_points
from circuits.scores.ig import eap_ig_activations, eap_ig_inputs
from circuits.scores.masks import learned_masks, mask_gradient
from circuits.scores.nodes import node_attribution
from circuits.scores.result import load_scores
from tests.checkpoints import ARCHITECTURES
from tests.circuits.conftest import OUTPUT, machine, one_pair, random_pairs
from workbench.errors import DamagedFile, SettingError
from workbench.metrics import KL

SMOOTH = [name for name in ARCHITECTURES if name != "mixtral"]
"""A mixture of experts jumps where its routing changes, which no gradient sees."""
METHODS = {
    "eap": eap,
    "clean-corrupted": clean_corrupted,
    "inputs": lambda e, **more: eap_ig_inputs(e, steps=3, **more),
    "activations": lambda e, **more: eap_ig_activations(e, steps=2, **more),
    "published activations": lambda e, **more: eap_ig_activations(e, steps=2, rule="published_code", **more),
}


@pytest.mark.parametrize("method", METHODS)
def test_the_edges_out_of_a_node_add_up_to_the_node(experiment, method):
    scores = METHODS[method](experiment)
    assert torch.allclose(scores.values.sum(0), scores.nodes, atol=2e-6)
    assert not scores.values[~experiment.graph.edges].any()
    assert scores.nodes.abs().max() > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_the_batch(hooked, pairs, method, monkeypatch):
    model = hooked("llama")
    one = METHODS[method](Experiment(model, pairs, batch_size=3))
    other = METHODS[method](Experiment(model, pairs))
    assert torch.allclose(one.values, other.values, atol=1e-6)
    monkeypatch.setattr("circuits.experiment.DIFFERENCES", 1)  # one prompt and one point at a time
    assert torch.allclose(METHODS[method](Experiment(model, pairs)).values, other.values, atol=1e-6)


def test_positions_add_up_to_the_edge(experiment):
    whole, parts = eap(experiment), eap(experiment, by_position=True)
    assert parts.values.shape == (experiment.length, *experiment.graph.edges.shape)
    assert torch.allclose(parts.values.sum(0), whole.values, atol=2e-6)
    assert torch.allclose(parts.nodes.sum(0), whole.nodes, atol=2e-6)
    assert not parts.values[0].any()  # the prompts begin alike, and nothing looks ahead
    assert parts.values[1].any()


def by_autograd(experiment, gate):
    """Minus the gradient of circuit runs with respect to their gates: every destination has an input of its own."""
    graph = experiment.graph
    total = torch.zeros(graph.edges.shape)
    for batch in experiment.batches:
        gates = (gate * graph.edges).requires_grad_()
        with torch.enable_grad():
            logits = run_circuits(batch.layout, batch.clean, batch.ablated, gates[None])[0]
            total -= torch.autograd.grad(batch.values(logits).sum(), gates)[0]
    return total * graph.edges / len(experiment)


def test_eap_is_the_gradient_of_the_edge_gates(experiment):
    """Reached without the analytic gradients."""
    truth = by_autograd(experiment, 1.0)
    assert torch.allclose(eap(experiment).values, truth, atol=3e-6)
    assert torch.allclose(mask_gradient(experiment).values, truth, atol=3e-6)


@pytest.mark.parametrize("ablation", [RESAMPLE, ZERO], ids=lambda ablation: ablation.name)
def test_gates_half_open(model, pairs, ablation):
    experiment = Experiment(model, pairs, ablation=ablation)
    scores = at_gates(experiment, [0.3, 0.8], "gates")
    truth = (by_autograd(experiment, 0.3) + by_autograd(experiment, 0.8)) / 2
    assert torch.allclose(scores.values, truth, atol=3e-6)
    assert torch.allclose(scores.nodes, truth.sum(0), atol=3e-6)
    assert not torch.allclose(eap(experiment).values, truth, atol=1e-3)


def test_eap_is_the_slope_of_circuit_runs(experiment):
    """By central differences of runs without any gradient."""
    graph, step = experiment.graph, 1e-3
    numbers = graph.edges.nonzero()[:: graph.n_edges // 20]
    gates = graph.edges.float().repeat(2, len(numbers), 1, 1)
    for row, (destination, source) in enumerate(numbers.tolist()):
        gates[:, row, destination, source] += torch.tensor([-step, step])
    values = experiment.values(gates.flatten(0, 1)).mean(1)
    slopes = (values[: len(numbers)] - values[len(numbers) :]) / (2 * step)
    assert torch.allclose(eap(experiment).values[tuple(numbers.T)], slopes, atol=2e-3)


@pytest.mark.parametrize("architecture", SMOOTH)
def test_integrated_gradients_of_the_input_are_complete(experiment):
    """They add up to the effect of the corrupted embedding, which is the corrupted run."""
    scores = eap_ig_inputs(experiment, steps=150, rule="midpoint")
    effect = float(experiment.ablated.mean() - experiment.clean.mean())
    assert float(scores.values[:, 0].sum()) == pytest.approx(effect, abs=2e-3)


@pytest.mark.parametrize("architecture", SMOOTH)
def test_integrated_gradients_of_activations_are_complete(experiment):
    """Those of the nodes of a layer add up to the effect of ablating the layer."""
    graph = experiment.graph
    scores = eap_ig_activations(experiment, steps=60, rule="midpoint")
    for span in graph.spans[2:5]:
        circuit = graph.edges.clone()
        circuit[:, span.sources.start : span.sources.stop] = False
        effect = float(experiment.values(circuit[None]).mean() - experiment.clean.mean())
        total = float(scores.nodes[span.sources.start : span.sources.stop].sum())
        assert total == pytest.approx(effect, abs=2e-3)


@pytest.mark.parametrize("architecture", SMOOTH)
def test_the_mask_path_is_complete(experiment):
    scores = mask_gradient(experiment, steps=20)
    assert float(scores.values.sum()) == pytest.approx(
        float(experiment.ablated.mean() - experiment.clean.mean()), abs=1e-2
    )


def test_exact_effects_are_those_of_runs_without_the_edge(experiment):
    graph = experiment.graph
    numbers = graph.edges.nonzero()
    circuits = graph.edges.repeat(len(numbers), 1, 1)
    circuits[torch.arange(len(numbers)), numbers[:, 0], numbers[:, 1]] = False
    effects = experiment.values(circuits).mean(1) - experiment.clean.mean()
    assert torch.allclose(exact_effects(experiment).values[graph.edges], effects, atol=3e-6)


def test_nodes_alone(experiment):
    assert torch.allclose(node_attribution(experiment).values, eap(experiment).nodes, atol=1e-6)
    circuit = node_attribution(experiment).circuit(3)
    assert len(set(circuit.nodes) - {"input"}) <= 3


# The OR gate: either node is enough


def test_or_gate(or_gate):
    graph = or_gate.graph
    into = graph.destinations.index("output")
    ways = [graph.sources.index(name) for name in ("b0.0", "b0.1")]
    both = graph.edges.clone()
    both[into, ways] = False
    assert float(or_gate.values(both[None]) - or_gate.clean) == -1
    for ablation in (or_gate.ablation, ZERO):
        gate = Experiment(or_gate._layouts[1], one_pair(), OUTPUT, ablation)
        assert exact_effects(gate).values[into, ways].tolist() == [0, 0]
        assert eap(gate).values[into, ways].tolist() == [0, 0]
        assert at_points(gate, [0.0], "at ablated", False).values[into, ways].tolist() == [-1, -1]
        assert clean_corrupted(gate).values[into, ways].tolist() == [-0.5, -0.5]
        # with all gates at g, s = 2g² < 1 to g = √½: the slope at each of the four gates is g
        slopes = mask_gradient(gate, steps=100).values[gate.graph.edges].tolist()
        assert slopes == pytest.approx([-0.25, -0.25, 0, -0.25, -0.25], abs=5e-3)


def test_or_gate_of_constants():
    """Each node writes 1, whatever it reads; zero ablation. On the way of all masks s = 2g, and the slope is 1 to ½."""
    ones = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    layout = machine(
        [torch.zeros(2, 2, 2)], lambda stream: 1 - torch.relu(1 - stream[..., 1:]), torch.zeros(2, 2), constant=ones
    )
    gate = Experiment(layout, one_pair(), OUTPUT, ZERO)
    assert float(gate.ablated - gate.clean) == -1
    assert mask_gradient(gate, steps=100).values[2].tolist() == pytest.approx([0, -0.5, -0.5], abs=5e-3)
    assert exact_effects(gate).values[2].tolist() == eap(gate).values[2].tolist() == [0, 0, 0]


def test_acdc_keeps_one_way_through_the_or_gate(or_gate):
    result = acdc(or_gate, 0.5)
    assert result.circuit.names == ["input->b0.0", "b0.0->output"]
    order = torch.tensor([[2, 1], [2, 2], [2, 0], [0, 0], [1, 0]])
    assert acdc(or_gate, 0.5, order=order).circuit.names == ["input->b0.1", "b0.1->output"]


def test_learned_masks_find_the_only_way(or_gate):
    """Of three blocks only one reaches the output."""
    copy, nothing = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2, 2)
    layout = machine(
        [torch.stack([nothing, copy, nothing])],
        lambda stream: torch.stack([3 * stream[..., 1], -3 * stream[..., 1]], -1),
        torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
    )
    experiment = Experiment(layout, one_pair(), OUTPUT)
    scores = learned_masks(experiment, n_edges=2, steps=150)
    assert experiment.graph.names(scores.top(2)) == ["input->b0.1", "b0.1->output"]


# The micro-model: two layers of two blocks


def test_micro_model(micro_model):
    """Its published outputs, edge by edge patched (auto-circuit, test_prune)."""
    graph = micro_model.graph
    steps = [[], ["b0.1->output"], ["b0.0->b1.1"], ["input->b0.0"]]
    taken = [name for names in steps for name in names]
    circuits = [graph.edges & ~graph.subset(taken[:count]) for count in range(4)]
    ((_, logits),) = micro_model.logits(torch.stack([*circuits, graph.edges & False]))
    assert logits[:, 0].tolist() == [[-25, -49], [-19, -41], [-13, -25], [-9, -13], [25, 49]]


def test_in_a_linear_model_every_method_is_exact(micro_model):
    exact = exact_effects(micro_model).values
    assert exact[micro_model.graph.edges].abs().min() > 0
    for name, method in METHODS.items():
        if name == "published activations":
            continue  # its runs cut the paths through the layer that they move
        assert torch.allclose(method(micro_model).values, exact, atol=1e-4)


# ACDC


def test_bets_give_the_circuit_of_the_published_algorithm(model):
    experiment = Experiment(model, random_pairs(n=2, length=5), KL)
    plain, fast = acdc(experiment, 0.02, at_once=1), acdc(experiment, 0.02)
    assert torch.equal(plain.circuit.edges, fast.circuit.edges)
    assert plain.passes == plain.tested == fast.tested > fast.passes
    assert 0 < fast.circuit.n_edges < experiment.graph.n_edges


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [1e-4, 1e-2, 0.1])
def test_bets_on_random_machines(seed, threshold):
    """At every threshold, of any width, in any order within a stage."""
    generator = torch.Generator().manual_seed(seed)
    layers = list(0.6 * torch.randn(3, 4, 5, 5, generator=generator))
    layout = machine(layers, lambda stream: stream.tanh(), torch.randn(2, 5, generator=generator))
    experiment = Experiment(layout, one_pair(), KL)
    order = experiment.graph.edges.nonzero()
    order = order[torch.randperm(len(order), generator=generator)]
    stage = torch.tensor([number for number, span in enumerate(experiment.graph.spans) for _ in span.destinations])
    order = order[stage[order[:, 0]].argsort(descending=True, stable=True)]
    plain = acdc(experiment, threshold, order=order, at_once=1)
    for at_once in (2, 7, 32):
        fast = acdc(experiment, threshold, order=order, at_once=at_once)
        assert torch.equal(plain.circuit.edges, fast.circuit.edges)
        assert fast.tested == plain.tested > fast.passes
    assert 0 < plain.circuit.n_edges < experiment.graph.n_edges


def test_acdc_step_by_step(hooked):
    """Against the algorithm as it is published: one edge after the other, every run from the start, nothing skipped."""
    experiment = Experiment(hooked("llama"), random_pairs(n=2, length=5), KL)
    edges, harm = experiment.graph.edges.clone(), 0.0
    for destination, source in experiment.graph.edges.nonzero().flip(0).tolist():
        edges[destination, source] = False
        new = float(experiment.values(edges[None]).double().mean())
        if new - harm < 0.02:
            harm = new
        else:
            edges[destination, source] = True
    assert torch.equal(acdc(experiment, 0.02).circuit.edges, edges)


def test_acdc_refuses_what_makes_no_sense(or_gate):
    graph = or_gate.graph
    for order in (graph.edges.nonzero(), graph.edges.nonzero().flip(0)[1:]):
        with pytest.raises(SettingError, match="order must"):
            acdc(or_gate, 0.1, order=order)


# Results


def test_ranking(or_gate):
    scores = clean_corrupted(or_gate)
    scores.values[2, 0] = 0.75  # an edge that works against the behaviour
    names = or_gate.graph.names
    assert names(scores.top(1, "absolute")) == ["input->output"]
    assert "input->output" not in names(scores.top(4, "signed"))
    assert int(scores.top(3).sum()) == 3
    with pytest.raises(SettingError, match="between 0 and"):
        scores.top(99)
    with pytest.raises(SettingError, match="ranked 'signed' or 'absolute'"):
        scores.top(1, "best")


def test_scores_survive_the_disk(tmp_path, or_gate):
    scores = clean_corrupted(or_gate)
    scores.save(tmp_path / "scores.safetensors")
    again = load_scores(tmp_path / "scores.safetensors")
    assert torch.equal(again.values, scores.values)
    assert torch.equal(again.nodes, scores.nodes)
    assert (again.method, again.facts, again.kind) == (scores.method, scores.facts, scores.kind)
    assert str(again) == str(scores)
    (tmp_path / "scores.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedFile, match="does not hold edge scores"):
        load_scores(tmp_path / "scores.safetensors")
