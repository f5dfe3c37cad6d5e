"""Feature circuits as files for circuit-tracer and Neuronpedia: field by field, there and back."""

import copy
import json
from pathlib import Path

import pytest
import torch

from circuits.attribution_graph.circuit import FeatureCircuit, Node
from circuits.attribution_graph.influence import Scores
from circuits.attribution_graph.neuronpedia import load_circuit, save_circuit
from workbench.errors import DamagedFile

NODES = [
    Node("latent", 2, 1, 417, 3.5, 0.25, "plural noun"),
    Node("error", 0, 0, -1, None, 0.5),
    Node("embedding", -1, 0, 12, None, 0.75, "The"),
    Node("embedding", -1, 1, 40, None, 0.7, " dogs"),
    Node("logit", 4, 1, 9, 0.625, None, " are"),
    Node("logit", 4, 1, 8, 0.125, None, ' "is"'),
]


@pytest.fixture
def circuit() -> FeatureCircuit:
    return FeatureCircuit(
        model="tiny",
        strings=["The", " dogs"],
        prompt="The dogs",
        n_layers=4,
        transcoders=["blocks.0.ln2.hook_normalized → blocks.0.hook_mlp_out"],
        nodes=NODES,
        sources=torch.tensor([0, 1, 3]),
        targets=torch.tensor([4, 0, 0]),
        weights=torch.tensor([1.5, -0.25, 2.0]),
        node_share=0.8,
        edge_share=0.98,
        scores=Scores(0.7, 0.9),
    )


@pytest.fixture
def path(circuit: FeatureCircuit, tmp_path: Path) -> Path:
    save_circuit(circuit, tmp_path / "the-dogs.json")
    return tmp_path / "the-dogs.json"


def test_every_field_is_as_the_viewers_read_it(path: Path):
    """Names and forms of the schema; 417 and 2 paired are (419 · 420) / 2 + 417."""
    content = json.loads(path.read_text())
    assert content.keys() == {"metadata", "qParams", "nodes", "links"}
    metadata = content["metadata"]
    assert metadata["slug"] == "the-dogs"
    assert metadata["scan"] == "tiny"
    assert metadata["prompt_tokens"] == ["The", " dogs"]
    assert metadata["prompt"] == "The dogs"
    assert metadata["schema_version"] == 1
    assert metadata["node_threshold"] == 0.8
    assert metadata["pruning_settings"] == {"node_threshold": 0.8, "edge_threshold": 0.98}
    assert content["qParams"] == {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    latent, error, embedding, _, logit, other = content["nodes"]
    assert latent == {
        "node_id": "2_417_1",
        "feature": 419 * 420 // 2 + 417,
        "layer": "2",
        "ctx_idx": 1,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": "2_417-0",
        "clerp": "plural noun",
        "influence": 0.25,
        "activation": 3.5,
    }
    names = ("node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp")
    assert [error[name] for name in names] == ["0_-1_0", -1, "0", 0, "mlp reconstruction error", "0_-1-0", ""]
    assert [embedding[name] for name in names] == ["E_12_0", 0, "E", 0, "embedding", "E_12-0", "The"]
    assert [logit[name] for name in names] == ["5_9_1", 9, "5", 1, "logit", "L_9-1", 'Output " are" (p=0.625)']
    assert (logit["token_prob"], logit["is_target_logit"], logit["activation"]) == (0.625, True, None)
    assert not other["is_target_logit"]
    assert content["links"][1] == {"source": "0_-1_0", "target": "2_417_1", "weight": -0.25}


def test_what_is_written_is_read_back(circuit: FeatureCircuit, path: Path):
    back = load_circuit(path)
    assert back.nodes == circuit.nodes
    for name in ("sources", "targets", "weights"):
        torch.testing.assert_close(getattr(back, name), getattr(circuit, name))
    for name in ("model", "strings", "prompt", "n_layers", "transcoders", "node_share", "edge_share", "scores"):
        assert getattr(back, name) == getattr(circuit, name), name


def test_a_graph_with_the_required_fields_alone_is_read(tmp_path: Path):
    """As Neuronpedia takes them from anybody: optional fields left out, a numeric layer, a null feature."""
    record = {
        "metadata": {"slug": "a", "scan": "gemma-2-2b", "prompt_tokens": ["<bos>", "Hi"], "prompt": "Hi"},
        "qParams": {},
        "nodes": [
            {"node_id": "3_7_1", "feature": None, "layer": 3, "ctx_idx": 1, "feature_type": TYPE, "jsNodeId": "3_7-0"}
            | {"clerp": ""},
            {
                "node_id": "27_5_1",
                "feature": 5,
                "layer": "27",
                "ctx_idx": 1,
                "feature_type": "logit",
                "jsNodeId": "L_5-1",
            }
            | {"clerp": 'Output " there" (p=0.5)', "token_prob": 0.5},
        ],
        "links": [{"source": "3_7_1", "target": "27_5_1", "weight": 2}],
    }
    (tmp_path / "a.json").write_text(json.dumps(record))
    circuit = load_circuit(tmp_path / "a.json")
    assert circuit.n_layers == 26
    assert circuit.nodes == [
        Node("latent", 3, 1, 7, None, None),
        Node("logit", 26, 1, 5, 0.5, None, " there"),
    ]
    assert circuit.scores is None
    assert "' there'" in str(circuit)


TYPE = "cross layer transcoder"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("metadata",), None, "it has no metadata"),
        (("nodes",), {}, "it has no nodes"),
        (("metadata", "scan"), 3, r"metadata\.scan must be of type str, not 3"),
        (("metadata", "prompt_tokens"), [1, 2], "prompt_tokens must be texts"),
        (("nodes", 0, "ctx_idx"), 9, r"nodes\[0\]\.ctx_idx is 9, and the prompt has 2 tokens"),
        (("nodes", 0, "ctx_idx"), True, r"nodes\[0\]\.ctx_idx must be of type int"),
        (("nodes", 0, "feature_type"), "lorsa", r"nodes\[0\]\.feature_type is 'lorsa'; known are cross layer"),
        (("nodes", 0, "node_id"), "plural", r"nodes\[0\] has the layer '2' and the node_id 'plural'"),
        (("nodes", 0, "node_id"), "0_-1_0", "two nodes have one node_id"),
        (("nodes", 1, "layer"), "x", r"nodes\[1\] has the layer 'x'"),
        (("links", 0, "source"), "9_9_9", r"links\[0\]\.source is '9_9_9', and no node has this node_id"),
        (("links", 0, "weight"), "2", r"links\[0\]\.weight must be of type int | float, not '2'"),
        (("links", 0, "weight"), float("nan"), r"links\[0\]\.weight is nan"),
    ],
)
def test_a_field_that_is_wrong_is_named(place: tuple, value: object, message: str, path: Path):
    content = copy.deepcopy(json.loads(path.read_text()))
    *outer, last = place
    at = content
    for step in outer:
        at = at[step]
    at[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFile, match=message) as caught:
        load_circuit(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["node_id", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"])
def test_a_node_without_a_field_is_refused(name: str, path: Path):
    content = json.loads(path.read_text())
    del content["nodes"][3][name]
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFile, match=rf"nodes\[3\] lacks '{name}'"):
        load_circuit(path)


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DamagedFile, match="should be one JSON object"):
        load_circuit(tmp_path / "list.json")
    with pytest.raises(DamagedFile, match="is missing"):
        load_circuit(tmp_path / "none.json")
