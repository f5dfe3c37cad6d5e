"""Neurons and latents as nodes, against the model's own run with edits, and against the MLP as one node."""

import json

import pytest
import torch

from circuits.ablations import ZERO, mean_ablation
from circuits.choice import NAMED, Latents, Neurons, all_units, chosen_again
from circuits.cli import find, score, show
from circuits.discovery import load_discovery
from circuits.experiment import Experiment
from circuits.latents import latents_by_layer
from circuits.layout import take_apart
from circuits.optimal import optimal_ablation
from circuits.scores.eap import eap
from circuits.scores.exact import exact_effects
from circuits.scores.ig import eap_ig_activations, eap_ig_inputs
from circuits.scores.nodes import node_attribution
from circuits.strongest import strongest_units
from saes.architectures import ARCHITECTURES
from saes.sae import SAE, SAEConfig
from workbench.cli.main import run_command
from workbench.edits import replace
from workbench.errors import ModelError, SettingError
from workbench.metrics import KL, LOGIT_DIFFERENCE

LAYER, NEURONS = 1, (3, 17, 5)
DENSE = ("gpt2", "neox", "llama", "gemma2", "qwen3", "bloom")


@pytest.fixture(params=DENSE)
def dense(request, hooked):
    """A model of each architecture in turn whose MLPs have neurons."""
    return hooked(request.param)


def with_units(model, pairs, **options) -> Experiment:
    return Experiment(model, pairs, units={LAYER: Neurons(NEURONS), 2: Neurons((0, 1))}, **options)


def test_the_nodes_of_an_mlp_add_up_to_it(dense, pairs):
    layout = take_apart(dense, pairs.clean, {LAYER: Neurons(NEURONS)})
    names = ("m1.n3", "m1.n17", "m1.n5", "m1.rest")
    assert layout.graph.sources[-len(names) - 5 : -5] == names
    with torch.no_grad():
        trace = layout.run(layout.embed(pairs.clean))
        whole = take_apart(dense, pairs.clean)
        other = whole.run(whole.embed(pairs.clean))
    number = 2 * LAYER + 1
    parts, mlp = layout.expand(number, trace.states), other.states[number + 1]
    assert torch.allclose(parts.sum(0), mlp, atol=1e-5)
    if dense.info.architecture != "Gemma2ForCausalLM":  # whose norm divides what neurons write
        post = dense.run(pairs.clean, capture=["blocks.1.mlp.hook_post"])["blocks.1.mlp.hook_post"]
        rows = dense.bridge.blocks[LAYER].mlp.W_out[list(NEURONS)]
        own = torch.einsum("nsu,ud->unsd", post[..., list(NEURONS)], rows)
        assert torch.allclose(parts[:-1], own, atol=1e-5)


def test_all_edges_are_the_clean_run_and_none_the_ablated(dense, pairs):
    experiment = with_units(dense, pairs)
    everything = experiment.graph.edges
    values = experiment.values(torch.stack([everything, everything & False]))
    for row, tokens in zip(values, (pairs.clean, pairs.corrupted), strict=True):
        logits = dense.run(tokens).logits[:, -1]
        assert torch.allclose(row, LOGIT_DIFFERENCE(logits, pairs, logits), atol=1e-5)


def neuron_of_the_corrupted(model, pairs, neuron):
    """The metric of the model's own run, with one neuron as it is in the corrupted run."""
    site = f"blocks.{LAYER}.mlp.hook_post"
    post, corrupted = (model.run(tokens, capture=[site])[site] for tokens in (pairs.clean, pairs.corrupted))
    post = post.clone()
    post[..., neuron] = corrupted[..., neuron]
    logits = model.run(pairs.clean, edits=[replace(site, post)]).logits[:, -1]
    return LOGIT_DIFFERENCE(logits, pairs, logits)


def test_a_neuron_that_reads_the_corrupted_run_is_that_runs_neuron(dense, pairs):
    experiment = with_units(dense, pairs)
    edges = experiment.graph.edges.clone()
    edges[experiment.graph.destinations.index("m1.n17")] = False
    assert torch.allclose(experiment.values(edges[None])[0], neuron_of_the_corrupted(dense, pairs, 17), atol=1e-5)


def test_a_neuron_that_nothing_reads_is_the_corrupted_runs(hooked, pairs):
    model = hooked("llama")
    experiment = with_units(model, pairs)
    edges = experiment.graph.edges.clone()
    edges[:, experiment.graph.sources.index("m1.n17")] = False
    assert torch.allclose(experiment.values(edges[None])[0], neuron_of_the_corrupted(model, pairs, 17), atol=1e-5)


def test_one_edge_into_a_neuron(hooked, pairs):
    """What the neuron would be, had the head written what it does in the corrupted run, by the model's own MLP."""
    model = hooked("gpt2")
    z, mid, post = "blocks.0.attn.hook_z", "blocks.1.hook_resid_mid", "blocks.1.mlp.hook_post"
    clean, corrupted = (model.run(tokens, capture=[z, mid, post]) for tokens in (pairs.clean, pairs.corrupted))
    block = model.bridge.blocks[LAYER]
    moved = clean[mid] + (corrupted[z] - clean[z])[:, :, 2] @ model.bridge.blocks[0].attn.W_O[2]
    read = block.ln2(moved) @ block.mlp.W_in[:, 17] + block.mlp.b_in[17]
    new = clean[post].clone()
    new[..., 17] = torch.nn.functional.gelu(read, approximate="tanh")
    logits = model.run(pairs.clean, edits=[replace(post, new)]).logits[:, -1]
    experiment = with_units(model, pairs)
    edge = experiment.graph.edge("a0.h2->m1.n17")
    edges = experiment.graph.edges.clone()
    edges[edge] = False
    truth = LOGIT_DIFFERENCE(logits, pairs, logits)
    assert torch.allclose(experiment.values(edges[None])[0], truth, atol=1e-5)
    effects = exact_effects(experiment).values
    assert effects[edge] == pytest.approx(float((truth - experiment.clean).mean()), abs=1e-5)


def test_every_exact_effect_is_that_of_a_circuit_without_the_edge(hooked, pairs):
    experiment = with_units(hooked("qwen3"), pairs[:2])
    graph, effects = experiment.graph, exact_effects(experiment).values
    near = [graph.destinations.index(name) for name in ("m1.n3", "m1.rest", "a2.h1<q>", "m2.n1", "m2.rest", "logits")]
    where = [(d, s) for d in near for s in graph.edges[d].nonzero()[:, 0].tolist()]
    circuits = graph.edges.repeat(len(where), 1, 1)
    for circuit, edge in zip(circuits, where, strict=True):
        circuit[edge] = False
    truth = experiment.values(circuits).mean(1) - experiment.clean.mean()
    assert torch.allclose(torch.stack([effects[edge] for edge in where]), truth, atol=1e-5)


@pytest.mark.parametrize("method", [eap, eap_ig_inputs, eap_ig_activations])
def test_scores_of_the_nodes_add_up_to_those_of_the_mlp(dense, pairs, method):
    units, whole = method(with_units(dense, pairs)), method(Experiment(dense, pairs))
    add_up(units, whole)


def add_up(units, whole):
    """Edges out of the nodes of an MLP, and edges into them, come to those of the MLP as one."""
    into = lambda graph: [name.split(".")[0] if name[0] == "m" else name for name in graph.destinations]  # noqa: E731
    out = lambda graph: [name.split(".")[0] if name[0] == "m" else name for name in graph.sources]  # noqa: E731
    values = torch.zeros(whole.values.shape)
    rows = torch.tensor([whole.graph.destinations.index(name) for name in into(units.graph)])
    columns = torch.tensor([whole.graph.sources.index(name) for name in out(units.graph)])
    values.index_put_((rows[:, None], columns[None]), units.values, accumulate=True)
    assert torch.allclose(values, whole.values, atol=1e-5 * float(whole.values.abs().max()) + 1e-7)
    nodes = torch.zeros(whole.nodes.shape).index_add(0, columns, units.nodes)
    assert torch.allclose(nodes, whole.nodes, atol=1e-5 * float(whole.nodes.abs().max()) + 1e-7)


def sae_of(architecture: str, reads: str, *, d_sae: int = 40, d: int = 32, seed: int = 0) -> SAE:
    """Random weights; between an MLP's input and its output, or on its output."""
    torch.manual_seed(seed)
    metadata = {"hook_name": f"blocks.{LAYER}.{reads}", "hook_name_out": f"blocks.{LAYER}.hook_mlp_out"}
    sae = ARCHITECTURES[architecture](SAEConfig(d, d_sae, k=6, metadata=metadata, d_out=d))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        if hasattr(sae, "threshold"):
            sae.threshold.abs_()
    return sae


LATENTS = (1, 7, 20)
KINDS = [
    ("topk_transcoder", "ln2.hook_normalized"),
    ("jumprelu_transcoder", "hook_resid_mid"),
    ("standard", "hook_mlp_out"),
    ("topk", "hook_mlp_out"),
]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize(("architecture", "reads"), KINDS)
def test_latents_as_nodes(hooked, pairs, name, architecture, reads):
    model, sae = hooked(name), sae_of(architecture, reads)
    assert latents_by_layer([sae], model) == {LAYER: sae}
    experiment = Experiment(model, pairs, units={LAYER: Latents(sae, LATENTS)})
    graph = experiment.graph
    assert [name for name in graph.sources if name.startswith("m1")] == ["m1.f1", "m1.f7", "m1.f20", "m1.rest"]
    (batch,) = experiment.batches
    active = {}
    for side, tokens in (("clean", pairs.clean), ("corrupted", pairs.corrupted)):
        read = model.run(tokens, capture=[sae.route.reads[0]])[sae.route.reads[0]]
        active[side] = sae.encode(read)[..., list(LATENTS)].detach()
    assert (active["clean"] > 0).any()
    assert torch.allclose(batch.clean.states[4][..., :3], active["clean"], atol=1e-5)

    edges = graph.edges.clone()
    edges[graph.destinations.index("m1.f7")] = False
    out = f"blocks.{LAYER}.hook_mlp_out"
    written = model.run(pairs.clean, capture=[out])[out]
    moved = written + (active["corrupted"] - active["clean"])[..., 1, None] * sae.W_dec[1 + 6].detach()
    logits = model.run(pairs.clean, edits=[replace(out, moved)]).logits[:, -1]
    assert torch.allclose(experiment.values(edges[None])[0], LOGIT_DIFFERENCE(logits, pairs, logits), atol=1e-5)
    everything = torch.stack([graph.edges, graph.edges & False])
    values = experiment.values(everything)
    assert torch.allclose(values[0], experiment.clean, atol=1e-5)
    assert torch.allclose(values[1], experiment.ablated, atol=1e-5)
    add_up(eap(experiment), eap(Experiment(model, pairs)))


def test_constants_in_place_of_units(hooked, pairs):
    model, units = hooked("llama"), {LAYER: Neurons(NEURONS)}
    mean = mean_ablation(model, pairs.corrupted, units=units)
    for ablation in (mean, ZERO):
        experiment = Experiment(model, pairs, ablation=ablation, units=units)
        coarse = Experiment(model, pairs, ablation=ZERO if ablation is ZERO else mean_ablation(model, pairs.corrupted))
        assert torch.allclose(experiment.ablated, coarse.ablated, atol=1e-5)


def test_a_choice_is_read_off_the_names_of_nodes(hooked, pairs):
    sae = sae_of("standard", "hook_mlp_out")
    units = {0: Neurons((4, 2)), LAYER: Latents(sae, LATENTS)}
    sources = take_apart(hooked("llama"), pairs.clean, units).graph.sources
    again = chosen_again(sources, {LAYER: sae})
    assert {layer: choice.names for layer, choice in again.items()} == {0: ("n4", "n2"), 1: ("f1", "f7", "f20")}
    with pytest.raises(SettingError, match="has latents of layer 1; give"):
        chosen_again(sources, {})


def test_units_that_are_not_there(hooked, pairs):
    model = hooked("llama")
    for units, error, message in [
        ({LAYER: Neurons((48,))}, SettingError, "no number 48 among the 48 neurons of layer 1"),
        ({LAYER: Neurons((3, 3))}, SettingError, "name one of them twice"),
        ({7: Neurons((3,))}, SettingError, "no layer 7"),
        (
            {LAYER: Latents(sae_of("standard", "hook_mlp_out"), (40,))},
            SettingError,
            "no number 40 among",
        ),
        ({LAYER: Latents(sae_of("gated", "hook_mlp_out"), (1,))}, SettingError, "gated is not its pre-activation"),
    ]:
        with pytest.raises(error, match=message):
            Experiment(model, pairs, units=units)
    with pytest.raises(ModelError, match="mixture of 4 experts"):
        Experiment(hooked("mixtral"), pairs, units={LAYER: Neurons((1,))})
    with pytest.raises(SettingError, match="latents are nodes where an MLP writes"):
        latents_by_layer([sae_of("standard", "hook_resid_post")], model)
    with pytest.raises(SettingError, match="two sets of latents for the MLP of layer 1"):
        latents_by_layer([sae_of("standard", "hook_mlp_out")] * 2, model)
    with pytest.raises(SettingError, match="of layer 1 are 16 wide, the model is 32"):
        latents_by_layer([sae_of("standard", "hook_mlp_out", d=16)], model)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_strongest_are_those_of_the_largest_node_scores(hooked, pairs, name):
    model, saes = hooked(name), {LAYER: sae_of("standard", "hook_mlp_out")}
    for given in (None, saes):
        everyone = Experiment(model, pairs, units=all_units(model, given))
        effects = node_attribution(everyone, steps=5).values.abs()
        units = [number for number, source in enumerate(everyone.graph.sources) if NAMED.fullmatch(source)]
        best = sorted(units, key=lambda number: -effects[number])[:10]
        chosen = strongest_units(model, pairs, LOGIT_DIFFERENCE, 10, given)
        names = {f"m{layer}.{name}" for layer, choice in chosen.items() for name in choice.names}
        assert names == {everyone.graph.sources[number] for number in best}
    for count in (0, 1000):
        with pytest.raises(SettingError, match=f"{count} units are asked for; there are 144 neurons"):
            strongest_units(model, pairs, LOGIT_DIFFERENCE, count)


def test_the_optimal_constant_of_a_unit_is_its_own(hooked, pairs):
    """Found on a grid by runs of the model itself, in which one neuron alone is held at each constant."""
    model, site, pairs = hooked("llama"), f"blocks.{LAYER}.mlp.hook_post", pairs[:2]
    ablation = optimal_ablation(Experiment(model, pairs, units={LAYER: Neurons(NEURONS)}), steps=15, lr=0.2)
    found = ablation.states[9][2 * LAYER + 2][0, 0, : len(NEURONS)]
    run = model.run(pairs.clean, capture=[site])

    def harm(neuron, constant):
        post = run[site].clone()
        post[..., neuron] = constant
        logits = model.run(pairs.clean, edits=[replace(site, post)]).logits[:, -1]
        return float(KL(logits, pairs, run.logits[:, -1]).sum())

    means = []
    for neuron, constant in zip(NEURONS, found.tolist(), strict=True):
        values = run[site][..., neuron]
        grid = torch.linspace(float(values.min()), float(values.max()), 31).tolist()
        best = min(harm(neuron, value) for value in grid)
        assert harm(neuron, constant) < 1.01 * best
        means.append(harm(neuron, float(values.mean())) / best)
    assert max(means) > 1.05


@pytest.mark.slow
def test_a_circuit_with_latents_is_found_shown_and_scored(tmp_path, capsys):
    place = tmp_path / "found"
    asked = ["--sentence", "1", "--units", "3", "--latents", "--edges", "40", "--examples", "4", "--out", str(place)]
    assert run_command("circuit find", find, asked) == 0
    capsys.readouterr()
    graph = load_discovery(place).circuit.graph
    assert sum(NAMED.fullmatch(name) is not None for name in graph.sources) == 3
    assert run_command("circuit score", score, [str(place), "--examples", "4", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["evaluation"]["f"] > 0.5
    assert run_command("circuit show", show, [str(place)]) == 0
    assert (place / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latents"], "units is 0; say how many, as --units 32"),
        (["--units", "-3"], "units is -3; say how many, as --units 32"),
        (["--units", "4", "--transcoders", "here"], "transcoders are given, but units are neurons; say --latents"),
        (["--units", "4", "--latents", "--transcoders", "nowhere"], "nowhere is not the directory of an SAE"),
        (["--units", "5000"], "5000 units are asked for; there are 1,536 neurons"),
    ],
)
def test_bad_units_are_refused_in_a_line(arguments, message, capsys):
    assert run_command("circuit find", find, [*arguments, "--examples", "2"]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
