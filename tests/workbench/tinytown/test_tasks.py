"""Tasks: pairs of equal length, right answers, held-out material."""

import numpy as np
import pytest

from workbench.errors import SettingError
from workbench.tinytown.language import Language
from workbench.tinytown.lexicon import DOMAINS
from workbench.tinytown.tasks import TASKS, task_prompts
from workbench.tinytown.template import is_held_out


@pytest.fixture(scope="module")
def language():
    return Language()


def words(language, ids):
    return [language.words[token] for token in ids]


@pytest.mark.parametrize("skill", TASKS)
def test_prompt_pairs_have_one_length_and_an_answer_that_is_not_the_distractor(language, skill):
    task = task_prompts(skill, 60, language=language)
    assert sum(map(len, task)) >= 60
    for prompts in task:
        assert prompts.clean.shape == prompts.corrupted.shape
        assert (prompts.clean[:, 0] == 0).all()
        assert (prompts.answers != prompts.distractors).all()
        assert (prompts.clean != prompts.corrupted).any(1).all()


def test_there_are_at_least_ten_skills():
    assert len(TASKS) >= 10


def test_ioi_answers_are_the_name_that_is_not_repeated(language):
    pairs = {name: i for i, name in enumerate(DOMAINS["name"].words)}
    for prompts in task_prompts("ioi", 80, language=language):
        for clean, corrupted, answer, distractor in zip(
            prompts.clean, prompts.corrupted, prompts.answers, prompts.distractors, strict=True
        ):
            names = [word for word in words(language, clean) if word in pairs]
            assert len(names) == 3
            once, twice = language.words[answer], language.words[distractor]
            assert (names.count(once), names.count(twice)) == (1, 2)
            other = [word for word in words(language, corrupted) if word in pairs]
            assert (other.count(once), other.count(twice)) == (2, 1)
            assert is_held_out(np.array([pairs[once]]), np.array([pairs[twice]])).all()


def test_facts_are_true(language):
    capital = dict(zip(DOMAINS["country"].words, DOMAINS["country"].forms["capital"], strict=True))
    for prompts in task_prompts("capital", 60, language=language):
        for clean, answer in zip(prompts.clean, prompts.answers, strict=True):
            (country,) = [word for word in words(language, clean) if word in capital]
            assert capital[country] == language.words[answer]


def test_years_go_up(language):
    for prompts in task_prompts("greater_than", 60, language=language):
        for clean, answer, distractor in zip(prompts.clean, prompts.answers, prompts.distractors, strict=True):
            start = int(words(language, clean)[8])
            assert int(language.words[distractor]) < start < int(language.words[answer])


def test_induction_asks_for_what_followed(language):
    for prompts in task_prompts("induction", 40, language=language):
        for tokens, wanted in ((prompts.clean, prompts.answers), (prompts.corrupted, prompts.distractors)):
            for row, answer in zip(tokens, wanted, strict=True):
                earlier = np.flatnonzero(row[:-1] == row[-1])
                assert row[earlier[-1] + 1] == answer


def test_equal_seeds_give_equal_prompts():
    one, again, other = (task_prompts("sentiment", 24, seed=seed)[0].clean for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_an_unknown_task_is_one_clear_line():
    with pytest.raises(SettingError, match=r"no task 'iio'; the tasks are ioi, "):
        task_prompts("iio", 1)


def test_a_skill_can_be_asked_for_what_training_saw(language):
    pairs = {language.ids[name]: i for i, name in enumerate(DOMAINS["name"].words)}
    for prompts in task_prompts("ioi", 40, held_out=False, language=language):
        key = [np.array([pairs[int(token)] for token in ids]) for ids in (prompts.answers, prompts.distractors)]
        assert not is_held_out(*key).any()
