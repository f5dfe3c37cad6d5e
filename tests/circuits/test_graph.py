"""The graph: published edge counts, names, and pruning."""

import pytest
import torch

from circuits.circuit import Circuit, load_circuit
from circuits.graph import graph_from_json, graph_of, transformer_graph
from workbench.errors import DamagedFile, SettingError

PUBLISHED = {  # layers, heads: edges, as the sources of EAP-IG, auto-circuit and MIB count them
    (12, 12): 32_491,  # GPT-2 small
    (24, 16): 231_877,  # GPT-2 medium
    (48, 25): 2_235_025,  # GPT-2 xl
    (24, 14): 179_749,  # Qwen2.5-0.5B
    (26, 8): 74_218,  # Gemma-2-2B
    (32, 32): 1_592_881,  # Llama-3.1-8B
    (4, 1): 77,  # tracr's reverse
    (2, 1): 23,  # tracr's fraction-previous
}


@pytest.mark.parametrize(("layers", "heads"), PUBLISHED)
def test_edges_are_as_many_as_published(layers, heads):
    graph = transformer_graph(layers, heads)
    assert graph.n_edges == PUBLISHED[layers, heads]
    assert len(graph.sources) == 1 + layers * (heads + 1)
    assert len(graph.destinations) == layers * (3 * heads + 1) + 1


def test_gpt2_small():
    graph = transformer_graph(12, 12)
    assert (len(graph.sources), len(graph.destinations)) == (157, 445)
    assert graph.edges.sum() == 32_491
    assert graph.edge("a0.h3->a1.h2<q>") == (37 + 2, 4)


def test_every_architecture_has_its_graph(model, architecture):
    graph = graph_of(model)
    grouped = architecture in ("llama", "gemma2", "qwen3", "mixtral")
    assert len(graph.destinations) == 3 * (4 + 2 * (2 if grouped else 4) + 1) + 1
    # in GPT-NeoX the MLP does not read the heads beside it
    assert graph.edges[graph.destinations.index("m0"), graph.sources.index("a0.h1")] == (architecture != "neox")
    name = "a2.kv1<k>" if grouped else "a2.h1<k>"
    assert graph.feeds[graph.destinations.index(name)].nonzero()[:, 0].tolist() == (
        [graph.sources.index(f"a2.h{head}") for head in ((2, 3) if grouped else (1,))]
    )


def test_names_lead_back_to_edges():
    graph = transformer_graph(2, 2, 1)
    assert torch.equal(graph.subset(graph.names(graph.edges)), graph.edges)
    for wrong in ("m0->a0.h0<q>", "a0.h9->m0", "input", "m1->m1"):
        with pytest.raises(SettingError, match="no edge"):
            graph.edge(wrong)


def test_pruning_leaves_paths_from_input_to_logits():
    graph = transformer_graph(2, 2)
    path = ["input->a0.h1<v>", "a0.h1->m1", "m1->logits"]
    dead = ["a0.h0->m1", "input->m0", "a0.h1->a1.h0<q>", "a1.h1->logits"]
    kept = graph.prune(graph.subset([*path, *dead]))
    assert graph.names(kept) == path
    assert torch.equal(graph.prune(graph.edges), graph.edges)


def test_positions_are_pruned_for_themselves():
    """What a value read at the first position goes on from the second, if the head's node there is read there."""
    graph = transformer_graph(2, 2)
    first, second, third = ["input->a0.h1<v>", "input->a0.h1<q>"], ["a0.h1->m1"], ["m1->logits"]

    def at(*names):
        return torch.stack([graph.subset(some) for some in names])

    kept = at(first[:1], second + third)
    assert torch.equal(graph.prune(at(first, second + third)), kept)  # a query read where nothing comes of it
    assert not graph.prune(at(first + second, third)).any()  # an MLP does not hand on to another position
    assert not graph.prune(at(first + second + third, [])).any()  # logits before the last
    assert not graph.prune(at(second, first + third)).any()  # a value read too late


def test_a_circuit_survives_the_disk(tmp_path):
    graph = transformer_graph(2, 4, 2)
    edges = torch.rand(graph.edges.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    for set_ in (edges & graph.edges, torch.stack([edges & graph.edges, graph.edges & ~edges])):
        circuit = Circuit(graph, set_, {"task": "none", "threshold": 0.1})
        circuit.save(tmp_path / "circuit.json")
        again = load_circuit(tmp_path / "circuit.json")
        assert torch.equal(again.edges, circuit.edges)
        assert again.facts == circuit.facts
        assert again.graph.to_json() == graph_from_json(graph.to_json()).to_json() == graph.to_json()
        assert torch.equal(again.graph.feeds, graph.feeds)


def test_a_damaged_circuit_is_refused(tmp_path):
    path = tmp_path / "circuit.json"
    path.write_text('{"format": "something else"}')
    with pytest.raises(DamagedFile, match="not a circuit"):
        load_circuit(path)
    path.write_text('{"format": "interp-workbench circuit 1", "graph": {}}')
    with pytest.raises(DamagedFile, match="damaged"):
        load_circuit(path)
    graph = transformer_graph(1, 1)
    with pytest.raises(SettingError, match="does not have"):
        Circuit(graph, ~graph.edges)
