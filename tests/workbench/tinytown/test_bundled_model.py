"""The bundled model knows its language, and its card says so truly."""

import re

import pytest

from workbench.model import load_model
from workbench.tinytown import MODEL_DIR
from workbench.tinytown.evaluation import evaluate
from workbench.tinytown.tasks import TASKS

NOT_LEARNED = {"ioi", "sentiment", "code_lookup", "induction"}
"""Skills that need content to be matched across a text; the shipped model was trained too briefly for them."""


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


@pytest.mark.parametrize(
    "skill",
    [
        pytest.param(skill, marks=pytest.mark.xfail(strict=True, reason="not learned yet"))
        if skill in NOT_LEARNED
        else skill
        for skill in TASKS
    ],
)
def test_held_out_accuracy(evaluation, skill):
    (score,) = [score for score in evaluation.skills if score.skill == skill]
    assert score.accuracy >= (0.98 if skill == "ioi" else 0.95)


def test_the_card_says_what_is_measured(evaluation, card):
    assert set(card) == set(TASKS)
    for score in evaluation.skills:
        assert card[score.skill] == pytest.approx(score.accuracy, abs=0.12 if score.skill in NOT_LEARNED else 0.04)


def test_a_head_in_an_early_layer_looks_at_the_previous_token(evaluation):
    layer, _, score = evaluation.heads.ranked("previous_token")[0]
    assert layer < 2
    assert score > 0.5


def test_it_is_a_plain_hugging_face_directory(model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    assert type(plain).__name__ == "LlamaForCausalLM"
    tokens = tokenizer("Mary went to the store.", return_tensors="pt").input_ids
    assert tokens.tolist() == model.to_tokens("Mary went to the store .").tolist()
    assert model.run(tokens).logits.allclose(plain(tokens).logits, atol=1e-5)
    assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) < 8_000_000
