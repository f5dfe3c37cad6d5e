"""Tokens as text."""

import pytest

from app.components import tokens
from app.prompts import checked, unknown_words
from tests.app.test_pages import of_class, text
from workbench.errors import PromptError


def test_the_tint_is_logarithmic_and_ends_at_the_top() -> None:
    assert tokens.tint(0, 5) == 0
    assert tokens.tint(5, 5) == tokens.tint(9, 5) == pytest.approx(1.0)
    assert tokens.tint(0.05, 5) > 0.06
    assert tokens.tint(2.5, 5) == pytest.approx(0.06 + 0.94 * 0.7404, abs=1e-3)


def test_words_without_spaces_are_set_apart() -> None:
    assert text(tokens.text(["The", "cat", "(", "a", "pet", ")", "sat", "."])) == "The cat (a pet) sat."


def test_tokens_with_spaces_are_left_as_they_are() -> None:
    assert text(tokens.text(["The", " cat", "s", " sat", "."])) == "The cats sat."


def test_only_the_window_stays_unfolded() -> None:
    row = tokens.text(list("abcdef"), [0, 0, 3, 0, 0, 0], 3, peak=2, window=(1, 4))
    near = [token for token in of_class(row, "tok") if "far" not in token.className]
    assert [text(token) for token in near] == ["b", "c", "d"]
    assert [text(token) for token in of_class(row, "peak")] == ["c"]
    assert len(of_class(row, "ellipsis")) == 2


def test_an_empty_prompt_is_an_error() -> None:
    with pytest.raises(PromptError, match="empty"):
        checked(None, " \n")


def test_unknown_words_are_named_once_in_order() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "cat": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    class Model:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")

    assert unknown_words(Model, "the zebra cat the zebra yak <unk>") == ["zebra", "yak"]
