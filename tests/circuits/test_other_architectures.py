"""The induction circuit of models that group their heads or norm what they write, trained here until they copy."""

import pytest

from circuits.discovery import discover
from circuits.tasks.registry import task_named
from workbench.heads import head_scores
from workbench.model import load_model
from workbench.tinytown.evaluation import score
from workbench.tinytown.options import TrainOptions
from workbench.tinytown.training import save_model, train_model

SMALL = {"n_layers": 3, "n_kv_heads": 2, "d_model": 64, "d_mlp": 64, "context": 64, "batch_size": 4}
BUDGET = 240_000
"""Tokens of repeated passages: induction forms in the second half of them."""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_induction_circuit_is_found_and_faithful(architecture, tmp_path):
    options = TrainOptions(out="", architecture=architecture, tokens=BUDGET, passages=BUDGET, **SMALL)
    save_model(train_model(options, lambda *_: None), options.context, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert (model.info.n_heads, model.info.n_kv_heads) == (4, 2)
    task = task_named("tinytown.induction", model)
    assert score(model, task.prompts(model, 100, seed=5)).accuracy > 0.8

    found = discover(model, task, "eap-ig", edges=0.1, n=40)
    circuit, evaluation = found.circuit, found.evaluation
    assert circuit.n_edges <= 0.1 * circuit.graph.n_edges
    assert evaluation.f > 0.85
    assert evaluation.f > evaluation.baseline.interval[1]
    assert found.curves.cpr > found.random.cpr + 0.3
    assert found.curves.cmd < found.random.cmd - 0.3

    heads = head_scores(model)
    layer, best, stripe = heads.ranked("induction")[0]
    assert stripe > 0.3
    assert f"input->a{layer}.kv{best // 2}<v>" in circuit.names
    assert f"a{layer}.h{best}->logits" in circuit.names
