"""The word-level tokenizer of Tinytown as an ordinary Hugging Face tokenizer."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from workbench.tinytown.language import BOS, UNKNOWN, Language

_MARKS = Regex(r"==|[^\w\s]")
"""Marks that are words of their own, also where no space parts them from a word."""


def build_tokenizer(language: Language, context: int) -> PreTrainedTokenizerFast:
    """Words and punctuation marks become tokens, a `<bos>` starts every text, a foreign word becomes `<unk>`."""
    tokenizer = Tokenizer(models.WordLevel(language.ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(_MARKS, behavior="isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, language.ids[BOS])]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=UNKNOWN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
