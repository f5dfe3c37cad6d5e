"""Circuit runs, against the model's own run with edits at its own sites."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from circuits.ablations import ZERO, Ablation, mean_ablation
from circuits.experiment import Experiment
from circuits.layout import take_apart
from circuits.optimal import optimal_ablation
from tests.checkpoints import configs
from tests.circuits.conftest import random_pairs
from workbench.edits import ablate, replace
from workbench.errors import ModelError, PromptError, SettingError
from workbench.metrics import KL, LOGIT_DIFFERENCE
from workbench.model import wrap_model

LAYER = 1


def test_the_parts_give_the_models_logits(model, reference, pairs):
    layout = take_apart(model, pairs.clean)
    with torch.no_grad():
        ours = layout.run(layout.embed(pairs.clean)).logits
        theirs = reference(pairs.clean).logits[:, -1]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_model_that_does_something_else_is_refused(hooked, pairs, monkeypatch):
    model = hooked("llama")
    monkeypatch.setattr(model.bridge.cfg, "parallel_attn_mlp", True)  # it is not
    with pytest.raises(ModelError, match="taken apart gives other logits"):
        take_apart(model, pairs.clean)


def test_all_edges_are_the_clean_run_and_none_the_ablated(experiment, model, pairs):
    everything = experiment.graph.edges
    values = experiment.values(torch.stack([everything, everything & False]))
    for row, tokens in zip(values, (pairs.clean, pairs.corrupted), strict=True):
        logits = model.run(tokens).logits[:, -1]
        assert torch.allclose(row, LOGIT_DIFFERENCE(logits, pairs, logits), atol=1e-5)


def written(model, run, layer, head=None):
    """What a head, or the MLP, adds to the residual stream, from the model's own sites and modules."""
    block = model.bridge.blocks[layer]
    if head is None:
        before = f"blocks.{layer}.hook_resid_mid"
        if before in run.sites:
            return run[f"blocks.{layer}.hook_resid_post"] - run[before]
        return run[f"blocks.{layer}.hook_mlp_out"]
    parts = torch.einsum("nshd,hdm->hnsm", run[f"blocks.{layer}.attn.hook_z"], block.attn.W_O)
    if hasattr(block, "ln1_post"):  # it multiplies each number, so the parts' shares of it are plain
        if block.attn.b_O is not None:
            parts = parts + block.attn.b_O / len(parts)
        total = parts.sum(0)
        return parts[head] * block.ln1_post(total) / total
    return parts[head]


def patched(model, pairs, source, destination, positions=slice(None)):
    """Logits with one edge patched, by edits: what a destination computes is computed again by the model's modules."""
    sites = [site for site in model.sites if site.endswith(("resid_pre", "resid_mid", "resid_post", "mlp_out", "z"))]
    clean, corrupted = (model.run(tokens, capture=sites) for tokens in (pairs.clean, pairs.corrupted))
    if source == "input":
        first = "blocks.0.hook_resid_pre"
        difference = corrupted[first] - clean[first]
    else:
        layer, _, head = source[1:].partition(".h")
        where = (int(layer), int(head) if head else None)
        difference = written(model, corrupted, *where) - written(model, clean, *where)
    kept = torch.zeros_like(difference)
    kept[:, positions] = difference[:, positions]
    last = model.info.n_layers - 1
    if destination == "logits":
        return model.unembed(clean[f"blocks.{last}.hook_resid_post"] + kept)[:, -1]
    layer = int(destination[1])
    block, before = model.bridge.blocks[layer], clean[f"blocks.{layer}.hook_resid_pre"]
    if destination[0] == "m":
        mid = f"blocks.{layer}.hook_resid_mid"
        stream = (clean[mid] if mid in clean.sites else before) + kept
        normed = block.ln2(stream)
        out = block.mlp(normed, torch.zeros_like(normed)) if model.info.positional == "alibi" else block.mlp(normed)
        out = out[0] if isinstance(out, tuple) else out
        out = block.ln2_post(out) if hasattr(block, "ln2_post") else out
        post = f"blocks.{layer}.hook_resid_post"
        new = clean[post] - written(model, clean, layer) + out
        return model.run(pairs.clean, edits=[replace(post, new)]).logits[:, -1]
    head, part = int(destination[destination.index("<") - 1]), destination[-2]
    site = f"blocks.{layer}.attn.hook_{part}"
    own = getattr(block.attn, part)(block.ln1(before + kept))
    own = own.unflatten(-1, (-1, model.info.d_head)) if own.ndim == 3 else own
    return model.run(pairs.clean, edits=[replace(site, own[:, :, [head]], heads=[head])]).logits[:, -1]


EDGES = [
    ("input", "a0.h1<q>"),
    ("input", "a2.0<k>"),
    ("input", "logits"),
    ("a0.h3", "a1.h2<q>"),
    ("a0.h3", "a1.1<k>"),
    ("a0.h0", "a2.1<v>"),
    ("a0.h1", "m1"),
    ("m0", "m2"),
    ("m1", "a2.h0<q>"),
    ("a2.h2", "logits"),
    ("m2", "logits"),
]


def exact_name(model, destination):
    """Fills in whether key-value heads are heads."""
    layer, _, rest = destination.partition(".")
    if rest[:1].isdigit():
        return f"{layer}.{'h' if model.info.n_kv_heads == model.info.n_heads else 'kv'}{rest}"
    return destination


def test_one_edge_patched_is_what_edits_make_of_it(experiment, model, pairs):
    graph = experiment.graph
    names = [f"{source}->{exact_name(model, destination)}" for source, destination in EDGES]
    circuits = torch.stack([graph.edges & ~graph.subset([name]) for name in names])
    truth = torch.stack([patched(model, pairs, source, exact_name(model, dest)) for source, dest in EDGES])
    ((_, logits),) = experiment.logits(circuits)
    clean = model.run(pairs.clean).logits[:, -1]
    assert torch.allclose(logits, truth, atol=2e-5)
    assert ((truth - clean).abs().amax((1, 2)) > 1e-3).all()  # each edge matters, so that a mistake would show


def test_an_output_bias_before_a_norm_is_written_by_the_heads(pairs):
    config = configs()["gemma2"]
    config.attention_bias = True
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config)
    for parameter in plain.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model = wrap_model(plain)
    assert model.bridge.blocks[0].attn.b_O.abs().mean() > 0.05
    experiment = Experiment(model, pairs)
    test_all_edges_are_the_clean_run_and_none_the_ablated(experiment, model, pairs)
    test_one_edge_patched_is_what_edits_make_of_it(experiment, model, pairs)


def test_an_edge_of_one_position(experiment, model, pairs):
    graph, length = experiment.graph, pairs.clean.shape[1]
    circuit = graph.edges.repeat(length, 1, 1)
    circuit[4] &= ~graph.subset(["a0.h1->m1"])
    ((_, logits),) = experiment.logits(circuit[None])
    assert torch.allclose(logits[0], patched(model, pairs, "a0.h1", "m1", slice(4, 5)), atol=2e-5)
    with pytest.raises(SettingError, match="positions"):
        experiment.values(circuit[None, 1:])


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_a_node_ablated_is_what_edits_make_of_it(model, pairs, how):
    """All edges out of two heads and an MLP gone, against the sites of these nodes edited."""
    sites = {"a1.h0": f"blocks.{LAYER}.attn.hook_z", "m2": "blocks.2.hook_mlp_out"}
    tokens = random_pairs(seed=5).clean if how == "mean" else pairs.corrupted
    other = model.run(tokens, capture=list(sites.values()))
    given = {"zero": ZERO, "mean": mean_ablation(model, tokens, batch_size=3), "resample": Ablation("resample")}[how]
    experiment = Experiment(model, pairs, ablation=given)
    gemma = hasattr(model.bridge.blocks[0], "ln1_post")
    for node, site in sites.items():
        if gemma and (how != "zero" or node[0] == "a"):
            continue  # its sites come before the norm that scales what is written
        value = other[site].mean(0) if how == "mean" else other[site] if how == "resample" else None
        heads = 0 if node[0] == "a" else None
        if value is not None and heads is not None:
            value = value[..., [0], :]
        edit = ablate(site, how, value, heads=heads)
        truth = model.run(pairs.clean, edits=[edit]).logits[:, -1]
        circuit = experiment.graph.edges.clone()
        circuit[:, experiment.graph.sources.index(node)] = False
        ((_, logits),) = experiment.logits(circuit[None])
        assert torch.allclose(logits[0], truth, atol=2e-5)


def test_circuits_together_are_circuits_one_by_one(experiment):
    graph = experiment.graph
    generator = torch.Generator().manual_seed(0)
    circuits = graph.edges & (torch.rand(4, *graph.edges.shape, generator=generator) < 0.6)
    circuits[1] = circuits[0]
    circuits[1, -1] = ~circuits[0, -1] & graph.edges[-1]  # differs from another only at the logits
    together = experiment.values(circuits)
    for circuit, row in zip(circuits, together, strict=True):
        assert torch.allclose(experiment.values(circuit[None])[0], row, atol=1e-5)
    by_position = circuits[:, None].expand(-1, experiment.length, -1, -1)
    assert torch.allclose(experiment.values(by_position), together, atol=1e-5)


def test_no_memory_is_read_before_it_is_written(experiment):
    """Circuits that differ in one head of the last attention, with new memory full of NaN."""
    graph = experiment.graph
    head = graph.destinations.index("a2.h1<q>")
    circuits = graph.edges.repeat(3, 1, 1)
    circuits[1, head, 0] = circuits[2, head, 3] = False
    apart = torch.cat([experiment.values(circuit[None]) for circuit in circuits])
    torch.use_deterministic_algorithms(True)  # fills it
    try:
        together = experiment.values(circuits)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.allclose(together, apart, atol=1e-5)


def test_known_sources_change_nothing(experiment):
    graph = experiment.graph
    span = graph.spans[3]
    circuits = graph.edges.repeat(2, 1, 1)
    circuits[0, span.destinations.start :, :5] = False
    circuits[1, span.destinations.start + 1] = False
    assert torch.allclose(experiment.values(circuits, known=span.reads), experiment.values(circuits), atol=1e-5)


def test_groups_of_several_lengths_and_any_batch_size(hooked):
    model = hooked("llama")
    groups = [random_pairs(3, 7, 1), random_pairs(2, 9, 2), random_pairs(2, 7, 3)]
    experiment = Experiment(model, groups, batch_size=2)
    assert [group.clean.shape for group in experiment.groups] == [(5, 7), (2, 9)]
    circuit = experiment.graph.edges & (torch.rand(experiment.graph.edges.shape) < 0.5)
    values = experiment.values(circuit[None])[0]
    alone = [Experiment(model, groups[number]).values(circuit[None])[0] for number in (0, 2, 1)]
    assert torch.allclose(values, torch.cat(alone), atol=1e-5)
    with pytest.raises(SettingError, match="7, 9 tokens"):
        _ = experiment.length


def test_what_cannot_be_run_is_refused(hooked, pairs):
    model = hooked("gpt2")
    with pytest.raises(PromptError, match="no prompt pairs"):
        Experiment(model, pairs[:0])
    made = mean_ablation(model, random_pairs(length=5).clean)
    with pytest.raises(PromptError, match="5 tokens, and these have 9"):
        _ = Experiment(model, pairs, ablation=made).ablated


def test_optimal_ablation_harms_no_more_than_the_mean(model, pairs):
    """Of every node by itself, as measured by circuit runs."""
    experiment = Experiment(model, pairs, KL)
    optimal = optimal_ablation(experiment, steps=12)
    start = optimal_ablation(experiment, steps=1, lr=0.0)  # the mean over prompts and positions
    graph = experiment.graph
    each = torch.stack([graph.edges & (torch.arange(len(graph.sources)) != node) for node in range(len(graph.sources))])
    harms = [Experiment(model, pairs, KL, ablation).values(each).mean(1) for ablation in (optimal, start)]
    assert (harms[0] <= harms[1] + 1e-6).all()
    assert harms[0].sum() < 0.95 * harms[1].sum()
