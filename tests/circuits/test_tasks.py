"""Tasks with the real tokenizer of GPT-2, with Tinytown's, and on every architecture."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from circuits.tasks import words
from circuits.tasks.ioi import SENTENCES
from circuits.tasks.registry import TASKS, speaks_tinytown, task_named
from circuits.truth.known import known_circuit
from workbench.cli.task import task_pairs
from workbench.errors import PromptError, SettingError
from workbench.metrics import PROBABILITY_DIFFERENCE
from workbench.model import load_model, wrap_model
from workbench.tinytown.tasks import TASKS as SKILLS

TOKENIZER = Path(__file__).parents[3] / "shared" / "data" / "gpt2-tokenizer"
ENGLISH = [name for name in TASKS if not name.startswith("tinytown.")]
TOWN = [name for name in TASKS if name.startswith("tinytown.")]
CHANGED = {
    "ioi": {"S2"},
    "ioi_abc": {"IO", "S1", "S2"},
    "greater_than": {"YY"},
    "docstring": {"C_def", "D_def"},
    "agreement": {"subject"},
    "pronoun": {"name"},
    "induction": {"B"},
    "capital": {"country"},
}
"""Where the corrupted prompt differs from the clean one."""


@pytest.fixture(scope="module")
def gpt2():
    """A model of GPT-2's vocabulary that knows nothing."""
    if not TOKENIZER.is_dir():
        pytest.skip("the GPT-2 tokenizer is not here")
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=4, n_positions=128))
    return wrap_model(model, AutoTokenizer.from_pretrained(TOKENIZER), "gpt2")


@pytest.fixture(scope="module")
def town():
    return load_model("tinytown")


def check(model, groups, n):
    """What holds of the prompts of any task."""
    assert sum(map(len, groups)) >= n
    for pairs in groups:
        assert pairs.clean.shape == pairs.corrupted.shape
        assert (pairs.answers != pairs.distractors).all()
        assert (pairs.clean != pairs.corrupted).any(1).all()
        assert pairs.positions["end"] == pairs.clean.shape[1] - 1
        assert list(pairs.positions.values()) == sorted(pairs.positions.values())
        assert max(pairs.clean.max(), pairs.corrupted.max(), pairs.answers.max()) < model.info.d_vocab


def same(one, other):
    return all(
        a.clean.equal(b.clean) and a.corrupted.equal(b.corrupted) and a.answers.equal(b.answers)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", ENGLISH)
def test_english_prompts(gpt2, name):
    task = TASKS[name]
    groups = task.prompts(gpt2, 40)
    check(gpt2, groups, 40)
    assert same(groups, task.prompts(gpt2, 40))
    assert not same(groups, task.prompts(gpt2, 40, seed=1))
    for pairs in groups:
        changed = {pairs.positions[place] for place in CHANGED[name]}
        differ = (pairs.clean != pairs.corrupted).any(0).nonzero()[:, 0].tolist()
        assert set(differ) == changed


@pytest.mark.parametrize("name", [name for name in ENGLISH if name != "induction"])
def test_english_prompts_are_what_the_tokenizer_makes_of_their_text(gpt2, name):
    groups = TASKS[name].prompts(gpt2, 10)
    for pairs in groups:
        for tokens in (pairs.clean, pairs.corrupted):
            assert gpt2.to_tokens([gpt2.to_string(row) for row in tokens]).equal(tokens)
    spelled = gpt2.token_strings(torch.cat([torch.cat([pairs.answers, pairs.distractors]) for pairs in groups]))
    assert all(re.fullmatch(r" [A-Za-z]+|\d\d", text) for text in spelled), spelled


@pytest.mark.parametrize("name", ["ioi", "ioi_abc"])
def test_ioi(gpt2, name):
    groups = TASKS[name].prompts(gpt2, 90)
    assert len(groups) == 2 * len(SENTENCES) == 30
    assert sum(pairs.positions["IO"] < pairs.positions["S1"] for pairs in groups) == 15
    for pairs in groups:
        at = {place: pairs.clean[:, position] for place, position in pairs.positions.items()}
        assert at["IO"].equal(pairs.answers)
        assert at["S1"].equal(pairs.distractors)
        assert at["S2"].equal(pairs.distractors)
        assert pairs.positions["S1+1"] == pairs.positions["S1"] + 1
        other = {place: pairs.corrupted[:, position] for place, position in pairs.positions.items()}
        if name == "ioi":
            assert other["S2"].equal(pairs.answers)
            continue
        for names in zip(at["IO"], at["S1"], other["IO"], other["S1"], other["S2"], strict=True):
            assert len({int(token) for token in names}) == 5


def test_greater_than(gpt2):
    (pairs,) = TASKS["greater_than"].prompts(gpt2, 200)
    assert [int(text) for text in gpt2.token_strings(pairs.choices)] == list(range(100))
    years = [int(text) for text in gpt2.token_strings(pairs.clean[:, pairs.positions["YY"]])]
    assert all(2 <= year <= 98 for year in years)
    assert set(gpt2.token_strings(pairs.corrupted[:, pairs.positions["YY"]])) == {"01"}
    assert pairs.clean[:, pairs.positions["XX"]].equal(pairs.clean[:, -1])
    for year, right in zip(years, pairs.right, strict=True):
        assert right.tolist() == [choice > year for choice in range(100)]
    for tokens, sign in ((pairs.answers, 1), (pairs.distractors, -1)):
        for year, text in zip(years, gpt2.token_strings(tokens), strict=True):
            assert (int(text) - year) * sign > 0
    assert TASKS["greater_than"].metric is PROBABILITY_DIFFERENCE
    even = torch.zeros(200, gpt2.info.d_vocab)
    expected = [(99 - year - (year + 1)) / gpt2.info.d_vocab for year in years]
    assert PROBABILITY_DIFFERENCE(even, pairs, even).tolist() == pytest.approx(expected, abs=1e-7)
    certain = even.scatter(1, pairs.distractors[:, None], 100.0)
    assert PROBABILITY_DIFFERENCE(certain, pairs, even).tolist() == pytest.approx([-1] * 200)


def test_docstring(gpt2):
    (pairs,) = TASKS["docstring"].prompts(gpt2, 30)
    at = {place: pairs.clean[:, position] for place, position in pairs.positions.items()}
    assert at["A_def"].equal(at["A_doc"])
    assert at["B_def"].equal(at["B_doc"])
    assert at["C_def"].equal(pairs.answers)
    assert at["D_def"].equal(pairs.distractors)
    assert gpt2.to_string(pairs.clean[0]).endswith("\n    :param")
    for prompt in pairs.clean:  # nothing but the named arguments tells an answer from the other words
        assert (prompt == prompt[pairs.positions["C_def"]]).sum() == 1


def test_agreement_pronouns_and_capitals(gpt2):
    number = {f" {form}": side for word in words.NOUNS for side, form in enumerate(word.split("/"))}
    verbs = {" is": 0, " are": 1, " was": 0, " were": 1, " has": 0, " have": 1}
    mixed = set()
    for pairs in TASKS["agreement"].prompts(gpt2, 100):
        subject, attractor = (pairs.clean[:, pairs.positions[place]] for place in ("subject", "attractor"))
        rows = [gpt2.token_strings(tokens) for tokens in (subject, attractor, pairs.answers, pairs.distractors)]
        for noun, other, right, wrong in zip(*rows, strict=True):
            assert verbs[right] == number[noun] != verbs[wrong]
            mixed.add((number[noun], number[other]))
    assert len(mixed) == 4
    for pairs in TASKS["pronoun"].prompts(gpt2, 50):
        names = gpt2.token_strings(pairs.clean[:, pairs.positions["name"]])
        for person, answer in zip(names, gpt2.token_strings(pairs.answers), strict=True):
            assert answer == (" she" if person.strip() in words.WOMEN else " he")
    for pairs in TASKS["capital"].prompts(gpt2, 50):
        for prompts, answers in ((pairs.clean, pairs.answers), (pairs.corrupted, pairs.distractors)):
            lands = gpt2.token_strings(prompts[:, pairs.positions["country"]])
            for country, answer in zip(lands, gpt2.token_strings(answers), strict=True):
                assert f"{country.strip()}/{answer.strip()}" in words.CAPITALS


def test_word_lists_have_no_repeats_and_tell_women_from_men():
    for group in (words.WOMEN, words.MEN, words.PLACES, words.THINGS, words.NOUNS, words.EVENTS, words.CODE_WORDS):
        assert len(set(group)) == len(group)
    assert not set(words.WOMEN) & set(words.MEN)


def test_induction_on_every_architecture(model):
    groups = TASKS["induction"].prompts(model, 9)
    check(model, groups, 9)
    for pairs in groups:
        for tokens, answers in ((pairs.clean, pairs.answers), (pairs.corrupted, pairs.distractors)):
            assert tokens[:, pairs.positions["B"]].equal(answers)
            assert tokens[:, pairs.positions["A1"]].equal(tokens[:, -1])
        assert not (pairs.clean == pairs.distractors[:, None]).any()
        assert ((pairs.clean == pairs.answers[:, None]).sum(1) == 1).all()


@pytest.mark.parametrize("name", TOWN)
def test_tinytown_prompts_and_the_sign_of_their_metric(town, name):
    task = TASKS[name]
    groups = task.prompts(town, 24)
    check(town, groups, 24)
    assert same(groups, task.prompts(town, 24))
    values = []
    for pairs in groups:
        clean, corrupted = (town.run(tokens).logits[:, -1] for tokens in (pairs.clean, pairs.corrupted))
        values.append([task.metric(logits, pairs, clean).mean() for logits in (clean, corrupted)])
    clean, corrupted = torch.tensor(values).mean(0).tolist()
    assert clean > max(corrupted, 0)
    assert corrupted < 0 or name == "tinytown.greater_than"  # after the year 01, neither year is wrong


def test_tinytown_positions(town):
    for pairs in TASKS["tinytown.ioi"].prompts(town, 32):
        at = {place: pairs.clean[:, position] for place, position in pairs.positions.items()}
        assert at["IO"].equal(pairs.answers)
        assert at["S1"].equal(pairs.distractors)
        assert at["S2"].equal(pairs.distractors)
        assert pairs.corrupted[:, pairs.positions["S2"]].equal(pairs.answers)
        assert pairs.positions["S1+1"] == pairs.positions["S1"] + 1
        assert (pairs.clean != pairs.corrupted).sum(1).eq(1).all()
    for pairs in TASKS["tinytown.agreement"].prompts(town, 20):
        assert (pairs.clean != pairs.corrupted).nonzero()[:, 1].unique().tolist() == [pairs.positions["subject"]]
    for pairs in TASKS["tinytown.code_lookup"].prompts(town, 8):
        at = {place: pairs.clean[:, position] for place, position in pairs.positions.items()}
        assert at["asked1"].equal(at["asked2"])
        assert pairs.corrupted[:, pairs.positions["asked2"]].equal(at["other"])
        assert at["year"].equal(pairs.answers)
    for pairs in TASKS["tinytown.induction"].prompts(town, 8):
        assert pairs.clean[:, pairs.positions["B"]].equal(pairs.answers)
        assert pairs.clean[:, pairs.positions["A1"]].equal(pairs.clean[:, pairs.positions["A2"]])


@pytest.mark.parametrize("name", TOWN)
def test_no_named_position_of_tinytown_is_lost(town, name):
    if name == "tinytown.induction":
        return
    for pairs in TASKS[name].prompts(town, 1):
        prompt = pairs.pattern.split(" => ")[0]
        variables = [name for name in re.findall(r"\{([^}]+)\}", prompt) if "|" not in name]
        expected = len(variables) + 1 + ("S1" in pairs.positions)
        assert len(pairs.positions) == expected


def test_names_mean_tinytowns_tasks_where_its_words_are_spoken(gpt2, town):
    assert speaks_tinytown(town)
    assert not speaks_tinytown(gpt2)
    assert task_named("ioi", town).name == "tinytown.ioi"
    assert task_named("ioi", gpt2) is task_named("ioi") is TASKS["ioi"]
    assert task_named("docstring", town).name == "docstring"
    assert [f"tinytown.{skill}" for skill in SKILLS] == TOWN


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("docstring", "tinytown has 3 of 37 words for arguments as single tokens; this task needs at least 11"),
        ("ioi", "ioi is asked in sentences that tinytown has no tokens for: 'When"),
        ("greater_than", "tinytown has no years of two tokens"),
    ],
)
def test_tokens_that_do_not_fit_a_task_are_refused_in_a_line(town, name, says):
    with pytest.raises(PromptError, match=says) as error:
        TASKS[name].prompts(town)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in ENGLISH if name != "induction"])
def test_a_tokenizer_of_other_words_is_refused_in_a_line(hooked, name):
    with pytest.raises(PromptError, match=r"as single tokens; this task needs|no years of two tokens"):
        TASKS[name].prompts(hooked("gpt2"))


def test_wrong_names_numbers_and_models_are_refused(hooked, gpt2):
    with pytest.raises(SettingError, match=r"no task 'iio'; the tasks are ioi, ioi_abc, .*, tinytown\.induction, or a"):
        task_named("iio")
    with pytest.raises(SettingError, match="n is 0"):
        TASKS["ioi"].prompts(gpt2, 0)
    with pytest.raises(PromptError, match=r"gpt2 does not have the vocabulary of Tinytown, which tinytown\.ioi"):
        TASKS["tinytown.ioi"].prompts(gpt2)
    with pytest.raises(SettingError, match="length is 9; for reverse it must be"):
        TASKS["induction"].prompts(known_circuit("reverse").model)


def test_a_file_is_a_task(hooked, tmp_path):
    path = tmp_path / "mine.jsonl"
    record = {"clean": "the cat", "corrupted": "the the", "answer": "a", "distractor": "b"}
    path.write_text(json.dumps(record))
    task = task_named(str(path))
    (pairs,) = task.prompts(hooked("gpt2"))
    assert task.name == pairs.name == "mine"
    assert hooked("gpt2").to_string(pairs.answers) == "a"
    assert "the prompts of" in str(task)


def test_commands_of_the_workbench_ask_any_model_its_tasks(gpt2):
    asked, made = task_pairs("agreement", gpt2, 8, 0), task_named("agreement").prompts(gpt2, 8, seed=0)
    assert len(asked) == len(made)
    assert all(torch.equal(one.clean, other.clean) for one, other in zip(asked, made, strict=True))
