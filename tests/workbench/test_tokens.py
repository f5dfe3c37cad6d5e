"""Text to tokens and back, for the kinds of tokenizer that models come with."""

import re

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.checkpoints import byte_tokenizer
from workbench import tokens
from workbench.errors import PromptError


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, with `<bos>` put first by the tokenizer itself."""
    words = {word: number for number, word in enumerate(["<bos>", "<unk>", "the", "cat", "sat", "."])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="<unk>")


def piece_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's way: `▁` for a space, and a token for each byte that is in no piece."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁ca", "t", "a", "s"]
    core = Tokenizer(
        models.BPE({piece: number for number, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "text", ["The cat sat.", "naïve café", "日本語 🙂!", " two  spaces\n\ttab", "<|endoftext|>The"]
)
def test_byte_level_tokens_spell_the_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    (ids,) = tokens.encode(tokenizer, [text], None).tolist()
    assert tokens.decode(tokenizer, ids) == text
    spelled = "".join(tokens.token_texts(tokenizer, ids)).encode()
    assert re.sub(rb"\\x(..)", lambda escape: bytes.fromhex(escape[1].decode()), spelled).decode() == text


def test_pieces_of_characters_are_shown_as_bytes() -> None:
    tokenizer = byte_tokenizer()
    (ids,) = tokens.encode(tokenizer, [" ü🙂"], None).tolist()
    assert tokens.token_texts(tokenizer, ids) == [" ", r"\xc3", r"\xbc", r"\xf0", r"\x9f", r"\x99", r"\x82"]


def test_sentence_pieces() -> None:
    tokenizer = piece_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["<s>", "▁the", "▁ca", "t", "<0xC3>", "<0xA9>", "<0x0A>"])
    assert tokens.token_texts(tokenizer, ids) == ["<s>", " the", " ca", "t", r"\xc3", r"\xa9", "\n"]


def test_words() -> None:
    tokenizer = word_tokenizer()
    assert tokens.token_texts(tokenizer, [0, 2, 3, 5]) == ["<bos>", "the", "cat", "."]


def test_rows_beyond_the_vocabulary_have_a_name() -> None:
    assert tokens.token_texts(byte_tokenizer(), [0, 300]) == ["<|endoftext|>", "[300]"]


@pytest.mark.parametrize(("prepend_bos", "expected"), [(None, [0, 2, 3]), (True, [0, 2, 3]), (False, [2, 3])])
def test_exactly_one_bos_where_the_tokenizer_adds_it(prepend_bos: bool | None, expected: list[int]) -> None:
    assert tokens.encode(word_tokenizer(), ["the cat"], prepend_bos).tolist() == [expected]


def test_a_bos_in_the_text_is_not_doubled() -> None:
    assert tokens.encode(word_tokenizer(), ["<bos> the cat"], None).tolist() == [[0, 2, 3]]


def test_bos_where_the_tokenizer_does_not_add_it() -> None:
    tokenizer = byte_tokenizer()
    plain = tokenizer.encode("The cat")
    assert tokens.encode(tokenizer, ["The cat"], None).tolist() == [plain]
    assert tokens.encode(tokenizer, ["The cat"], True).tolist() == [[0, *plain]]


def test_bos_that_does_not_exist() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(PromptError, match="this tokenizer has no <bos> token"):
        tokens.encode(tokenizer, ["The"], True)


def test_texts_of_unequal_length() -> None:
    assert tokens.encode(word_tokenizer(), ["the cat", "sat the"], None).shape == (2, 3)
    with pytest.raises(PromptError, match="the texts have 2 to 3 tokens; a batch must have one length"):
        tokens.encode(word_tokenizer(), ["the", "the cat"], None)
