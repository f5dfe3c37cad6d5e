"""`workbench circuit features` and the figures, on the bundled model and its transcoders."""

import json
from pathlib import Path

import numpy as np
import pytest

from circuits.attribution_graph.circuit import FeatureCircuit
from circuits.attribution_graph.cli import features
from circuits.attribution_graph.confirmation import confirm
from circuits.attribution_graph.neuronpedia import load_circuit
from circuits.attribution_graph.transcoders import read_transcoders
from saes.sae import normalized_error
from workbench.cli.main import run_command
from workbench.errors import SettingError
from workbench.figures.attribution_graph import circuit as figure
from workbench.figures.attribution_graph import flips, foretold
from workbench.figures.frame import reading
from workbench.figures.table import to_csv
from workbench.model import load_model
from workbench.tinytown import TRANSCODER_DIR
from workbench.tinytown.tasks import task_prompts

PROMPT = "The boy near the dogs"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("circuit") / "the-boy"


@pytest.fixture(scope="module")
def circuit(written: Path) -> FeatureCircuit:
    run_command("circuit features", features, [PROMPT, "--out", str(written), "--max-logits", "3"])
    return load_circuit(written / "graph.json")


def test_the_command_writes_a_graph_and_a_picture(circuit: FeatureCircuit, written: Path):
    assert circuit.prompt.endswith(PROMPT)
    assert len(circuit.of_kind("logit")) == 3
    assert len(circuit.of_kind("embedding")) == len(circuit.strings) == 6
    assert 5 < len(circuit.of_kind("latent")) < 300
    assert len(circuit.transcoders) == 4
    page = (written / "graph.html").read_text()
    assert "plotly" in page
    assert page.count("<html>") == 1


def test_the_command_prints_json(capsys: pytest.CaptureFixture):
    run_command(
        "circuit features", features, [PROMPT, "--logits", "runs", "--against", "run", "--nodes", "0.5", "--json"]
    )
    result = json.loads(capsys.readouterr().out)
    assert [node["label"] for node in result["nodes"] if node["kind"] == "logit"] == ["runs - run"]
    assert {"source", "target", "weight"} == result["links"][0].keys()


def test_another_model_needs_transcoders_of_its_own(checkpoint):
    with pytest.raises(SettingError, match="--transcoders needs the directories"):
        features.load_run()(features.load_options()("Hi", model=str(checkpoint("gpt2"))))


def test_the_picture_shows_every_node_and_the_strongest_links(circuit: FeatureCircuit):
    picture = figure(circuit, links=50)
    nodes = [trace for trace in picture.data if trace.mode == "markers"]
    assert sum(len(trace.x) for trace in nodes) == len(circuit.nodes)
    lines = [trace for trace in picture.data if trace.mode == "lines"]
    assert sum(len(trace.x) for trace in lines) == 3 * 50
    ends = np.array([[trace.x[0], trace.y[0]] for trace in lines])
    places = np.concatenate([np.stack([trace.x, trace.y], axis=1) for trace in nodes])
    assert (np.abs(places[:, None] - ends).sum(-1).min(0) < 1e-9).all()
    assert "are not drawn" in reading(picture)
    assert "L3#" in to_csv(picture.to_plotly_json())


def test_the_bundled_transcoders_are_of_the_bundled_model():
    """They say so, and leave less than a tenth of the variance of each MLP's output on held-out prompts."""
    model = load_model("tinytown")
    transcoders = read_transcoders([TRANSCODER_DIR], model)
    assert list(transcoders) == [0, 1, 2, 3]
    tokens = task_prompts("sentiment", 40)[0].clean
    run = model.run(tokens, capture=["blocks.*.ln2.hook_normalized", "blocks.*.hook_mlp_out"])
    for layer, sae in transcoders.items():
        assert sae.cfg.metadata["model_fingerprint"] == model.fingerprint
        x, out = (
            run[f"blocks.{layer}.{name}"][:, 1:].flatten(0, 1) for name in ("ln2.hook_normalized", "hook_mlp_out")
        )
        assert normalized_error(sae(x), out) < 0.1


def test_turning_off_the_latents_that_the_graph_names_flips_answers_and_others_do_not():
    """Subject and verb agree: of held-out prompts, most flip with ten of some 380 latents off."""
    model = load_model("tinytown")
    pairs = [group[:2] for group in task_prompts("agreement", 12, seed=3)]
    result = confirm(model, pairs, read_transcoders([TRANSCODER_DIR], model), sizes=(1, 10))
    assert len(result.clean) + result.n_wrong == sum(map(len, pairs))
    assert (result.clean > 0).all()
    assert result.flips("named")[1] > 0.5
    assert result.flips("as_active")[1] < 0.1
    assert result.flips("same_place")[1] < 0.1
    change = [(getattr(result, kind) - result.clean[:, None]).flatten() for kind in ("predicted", "named")]
    assert np.corrcoef(*change)[0, 1] > 0.7
    assert [len(latents) for latents in result.latents] == [10] * len(result.clean)
    assert "latents turned off" in str(result)
    assert flips(result).data[0].y[1] == pytest.approx(result.flips("named")[1].item())
    assert len(foretold(result).data) == 3


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(SettingError, match="sizes must be rising numbers"):
        confirm(load_model("tinytown"), [], {}, sizes=(3, 1))
