"""Prompt pairs, from texts and files, and the numbers that they are measured by."""

import json
import math

import pytest
import torch

from workbench.errors import DamagedFile, PromptError, SettingError
from workbench.metrics import (
    KL,
    L2,
    LOGIT,
    LOGIT_DIFFERENCE,
    LOSS,
    PROBABILITY,
    PROBABILITY_DIFFERENCE,
    metric_named,
)
from workbench.prompts import PromptPairs, prompt_pairs, read_pairs

RECORD = {"clean": "the cat", "corrupted": "the the", "answer": "a", "distractor": "b"}


@pytest.fixture
def gpt2(hooked):
    return hooked("gpt2")


def test_texts_become_tokens(gpt2):
    pairs = prompt_pairs(gpt2, ["the cat"], ["the the"], ["a"], ["b"])
    assert gpt2.to_string(pairs.clean[0]) == "the cat"
    assert gpt2.to_string(pairs.corrupted[0]) == "the the"
    assert gpt2.to_string(pairs.answers) == "a"
    assert gpt2.to_string(pairs.distractors) == "b"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ((["the cat"], ["the cat and"], ["a"], ["b"]), "a pair must be of one length"),
        ((["the", "the cat"], [" cat", "the the"], ["a", "a"], ["b", "b"]), "must be of one length; they have"),
        ((["the"], [" cat"], ["a and b"], ["b"]), "an answer must be one token"),
        ((["the"], ["cat"], [], ["b"]), "as many of each"),
        (([], [], [], []), "there are none"),
    ],
)
def test_texts_that_do_not_fit_are_refused_in_a_line(gpt2, texts, says):
    with pytest.raises(PromptError, match=says) as error:
        prompt_pairs(gpt2, *texts)
    assert "\n" not in str(error.value)


def test_tensors_that_do_not_fit_are_refused():
    prompts = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(PromptError, match="one length"):
        PromptPairs("t", prompts, prompts[:, :2], prompts[:, 0], prompts[:, 0])
    with pytest.raises(PromptError, match="as many of each"):
        PromptPairs("t", prompts, prompts, prompts[:1, 0], prompts[:, 0])


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_files_are_grouped_by_length(gpt2, tmp_path, kind):
    records = [RECORD, RECORD | {"clean": "the", "corrupted": " cat"}, RECORD | {"answer": "b", "distractor": "a"}]
    file = tmp_path / f"my.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        file.write_text("\n".join([",".join(RECORD), *(",".join(record.values()) for record in records)]))
    groups = read_pairs(file, gpt2)
    assert sorted(len(group) for group in groups) == [1, 2]
    assert {group.name for group in groups} == {"my"}
    (pair,) = (group for group in groups if len(group) == 2)
    assert pair[1:].answers.tolist() == pair[:1].distractors.tolist()


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (json.dumps(RECORD | {"answer": 3}), DamagedFile, "line 1: no text 'answer'"),
        (json.dumps(RECORD) + '\n{"clean": ', DamagedFile, "line 2: not valid JSON"),
        (
            json.dumps(RECORD) + "\n" + json.dumps(RECORD | {"clean": "the cat the"}),
            PromptError,
            "line 2: .*one length",
        ),
        ("\n", DamagedFile, "holds no prompt pairs"),
    ],
)
def test_bad_files_are_refused_by_line(gpt2, tmp_path, text, error, says):
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(error, match=says):
        read_pairs(file, gpt2)


def test_metrics_of_logits_worked_out_by_hand():
    prompts = torch.zeros(2, 1, dtype=torch.long)
    pairs = PromptPairs("t", prompts, prompts, torch.tensor([0, 1]), torch.tensor([2, 0]))
    logits = torch.tensor([[1.0, 1.0, 3.0], [0.0, math.log(2), 0.0]])
    many = torch.stack([logits, logits + 5.0])
    assert LOGIT_DIFFERENCE(many, pairs, logits).flatten().tolist() == pytest.approx([-2, math.log(2)] * 2)
    assert LOGIT(logits, pairs, logits).tolist() == pytest.approx([1, math.log(2)])
    assert PROBABILITY(logits, pairs, logits)[1] == pytest.approx(0.5)
    assert LOSS(logits, pairs, logits)[1] == pytest.approx(math.log(2))
    assert KL(many, pairs, logits).abs().max() < 1e-6
    even = torch.zeros(2, 3)
    assert KL(even, pairs, logits)[1] == pytest.approx(0.5 * math.log(1.5) + 0.5 * math.log(0.75), abs=1e-6)


def test_the_distance_of_logits():
    prompts = torch.zeros(1, 1, dtype=torch.long)
    pairs = PromptPairs("t", prompts, prompts, torch.tensor([0]), torch.tensor([1]))
    assert L2(torch.tensor([[1.0, 2, 3]]), pairs, torch.tensor([[1.0, 0, 4]])).tolist() == [5]


def test_probabilities_of_many_right_answers_less_those_of_the_wrong_ones():
    prompts = torch.zeros(2, 1, dtype=torch.long)
    right = torch.tensor([[True, True, False], [False, False, True]])
    words = {"answers": torch.tensor([1, 0]), "distractors": torch.tensor([0, 3])}
    pairs = PromptPairs("t", prompts, prompts, **words, choices=torch.tensor([1, 3, 0]), right=right)
    logits = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]]).log()
    assert PROBABILITY_DIFFERENCE(logits, pairs, logits).tolist() == pytest.approx([0.1 + 0.2 - 0.4, 0.1 - 0.2 - 0.4])
    many = torch.stack([logits, logits + 1])
    assert PROBABILITY_DIFFERENCE(many, pairs, logits).shape == (2, 2)
    assert PROBABILITY_DIFFERENCE(logits[1:], pairs[1:], logits[1:]).tolist() == pytest.approx([-0.5])
    plain = PromptPairs("t", prompts, prompts, **words)
    assert PROBABILITY_DIFFERENCE(logits, plain, logits).tolist() == pytest.approx([0.1 - 0.4, 0.1 - 0.4])


def test_choices_that_do_not_fit_are_refused():
    prompts, one = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    choices = torch.tensor([1, 2, 3])
    with pytest.raises(PromptError, match="go together"):
        PromptPairs("t", prompts, prompts, one, one, choices=choices)
    with pytest.raises(PromptError, match=r"right is \[2, 2\]; for these prompts and choices it must be \[2, 3\]"):
        PromptPairs("t", prompts, prompts, one, one, choices=choices, right=torch.ones(2, 2, dtype=torch.bool))


def test_an_unknown_metric_is_refused():
    with pytest.raises(SettingError, match="no metric 'logits'; the metrics are"):
        metric_named("logits")
