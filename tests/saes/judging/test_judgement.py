"""One table and one JSON object, with all that applies."""

import json

import pytest
import torch

from saes import cli, training
from saes.architectures.topk import TopK
from saes.index.build import build_index
from saes.judging.labelled import judge_corpus
from saes.sae import SAEConfig
from saes.storage import load_sae, save_sae
from workbench.cli.main import run_command
from workbench.corpus import open_corpus
from workbench.model import load_model
from workbench.tinytown import SAE_DIR

SHIPPED = SAE_DIR / "blocks.2.hook_resid_post"


def evaluate(*arguments):
    return run_command("sae eval", cli.evaluate, [*map(str, arguments)])


def strict(text):
    """JSON without NaN, which other readers refuse."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_on_the_bundled_language(tmp_path, capsys):
    metadata = {"hook_name": "blocks.2.hook_resid_post", "model_name": "tinytown", "dataset_path": "tinytown"}
    save_sae(TopK(SAEConfig(128, 64, 8, metadata=metadata)).initialise(torch.zeros(128), 0), tmp_path / "sae")
    assert evaluate(tmp_path / "sae", "--tokens", 4000, "--json") == 0
    measured = strict(capsys.readouterr().out)
    assert measured.keys() >= {"l0", "kl_recovered", "structure", "concepts", "completeness"}
    assert not measured.keys() & {"stability", "probing"}
    concepts = measured["concepts"]["concepts"]
    assert len(concepts) > 20
    assert measured["concepts"]["mean_f1"] == pytest.approx(sum(one["f1"] for one in concepts) / len(concepts))
    assert measured["completeness"]["remaining"] > 0
    assert measured["completeness"]["concepts"].keys() == {one["concept"] for one in concepts}


def test_the_concepts_agree_with_the_feature_index(tmp_path):
    """The index chooses and measures on the same tokens, with thresholds of its own: close, if common."""
    model, sae = load_model("tinytown"), load_sae(SHIPPED)
    corpus = open_corpus("tinytown", model.tokenizer, context=128, seed=0)
    found = judge_corpus(sae, model, corpus, 12_000).concepts
    index = build_index(sae, model, corpus, n_tokens=12_000, out=tmp_path)
    indexed = {score.concept: score.f1 for score in index.coverage().best}
    common = [one for one in found.concepts if index.summary.concepts[one.concept] > 600]
    assert len(common) >= 4
    for one in common:
        assert one.f1 == pytest.approx(indexed[one.concept], abs=0.1), one.concept


def test_twins_and_labels(small, tmp_path, capsys):
    config, other = small(), small(out=tmp_path / "other", seed=1)
    training.train(config)
    training.train(other)
    labels = tmp_path / "labels.jsonl"
    lines = [{"text": f"{n} the cat" if n % 2 else f"old stone {n}", "label": n % 2} for n in range(12)]
    labels.write_text("\n".join(map(json.dumps, lines)))
    arguments = (config.out, "--tokens", 500, "--twins", config.out, other.out, "--labels", labels)
    assert evaluate(*arguments, "--json") == 0
    measured = strict(capsys.readouterr().out)
    assert 0.5 <= measured["stability"]["twins"] < 1
    assert measured["stability"]["others"] == 2
    assert measured["probing"]["sae"].keys() == {"1", "2", "5"}
    assert evaluate(*arguments) == 0
    table = capsys.readouterr().out
    for heading in ("Measured on", "Structure:", "Stability:", "Probing:", "KL recovered", "relative bias"):
        assert heading in table


def test_options_from_a_file(small, tmp_path, capsys):
    config = small()
    training.train(config)
    settings = tmp_path / "eval.yaml"
    settings.write_text(f"tokens: 300\ntwins: [{config.out}]\n")
    assert evaluate(config.out, "--config", settings, "--json") == 0
    assert strict(capsys.readouterr().out)["stability"]["twins"] == 1
