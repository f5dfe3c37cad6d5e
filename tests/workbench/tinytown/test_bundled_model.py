"""The bundled model knows its language, and its card says so truly."""

import re

import pytest

from workbench.edits import ablate
from workbench.heads import repeated_tokens, stripe_scores
from workbench.model import load_model
from workbench.tinytown import MODEL_DIR
from workbench.tinytown.evaluation import evaluate
from workbench.tinytown.tasks import TASKS


@pytest.fixture(scope="module")
def model():
    return load_model("tinytown")


@pytest.fixture(scope="module")
def evaluation(model):
    return evaluate(model, examples=120, seed=1)


@pytest.fixture(scope="module")
def card():
    text = (MODEL_DIR / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\d.]+)% \| (-?[\d.]+) \| \d+ \|$", text, flags=re.MULTILINE)
    return {skill: float(accuracy) / 100 for skill, accuracy, _ in rows}


@pytest.mark.parametrize("skill", TASKS)
def test_held_out_accuracy(evaluation, skill):
    (score,) = [score for score in evaluation.skills if score.skill == skill]
    assert score.accuracy >= (0.98 if skill == "ioi" else 0.95)
    assert score.logit_difference >= (3 if skill == "ioi" else 1)


def test_the_card_says_what_is_measured(evaluation, card):
    assert set(card) == set(TASKS)
    for score in evaluation.skills:
        assert card[score.skill] == pytest.approx(score.accuracy, abs=0.04)


def test_an_induction_head_is_fed_by_a_previous_token_head(model, evaluation):
    """Without the best previous-token head, the best induction head loses its stripe."""
    heads = evaluation.heads
    assert heads.loss_drop >= 0.7
    early, previous, looks_back = heads.ranked("previous_token")[0]
    late, induction, finds = heads.ranked("induction")[0]
    assert early < late
    assert looks_back >= 0.6
    assert finds >= 0.6
    tokens = repeated_tokens(model, length=heads.length, batch=8, seed=3)
    pattern = f"blocks.{late}.attn.hook_pattern"
    run = model.run(tokens, capture=[pattern], edits=[ablate(f"blocks.{early}.attn.hook_z", heads=[previous])])
    assert stripe_scores(run[pattern][None], heads.length).induction[0, induction] < 0.1


def test_it_is_a_plain_hugging_face_directory(model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    assert type(plain).__name__ == "LlamaForCausalLM"
    tokens = tokenizer("Mary went to the store.", return_tensors="pt").input_ids
    assert tokens.tolist() == model.to_tokens("Mary went to the store .").tolist()
    assert model.run(tokens).logits.allclose(plain(tokens).logits, atol=1e-5)
    assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) < 8_000_000
