"""Text to tokens and back, with each token's exact text."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from workbench.errors import PromptError

_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], prepend_bos: bool | None
) -> Int[Tensor, "batch pos"]:
    """Token ids of texts of equal length. Exactly one `<bos>` leads each if wanted, whatever the tokenizer does itself.

    `prepend_bos=None` follows the tokenizer, which follows how the model was trained.
    """
    if prepend_bos is None:
        prepend_bos = starts_with_bos(tokenizer)
    if prepend_bos and tokenizer.bos_token_id is None:
        raise PromptError("prepend_bos=True, but this tokenizer has no <bos> token")
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    if prepend_bos:
        rows = [row if row[:1] == [tokenizer.bos_token_id] else [tokenizer.bos_token_id, *row] for row in rows]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise PromptError(f"the texts have {lengths[0]} to {lengths[-1]} tokens; a batch must have one length")
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), max(lengths, default=0))


def starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts `<bos>` before a text by itself."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The exact text of each token, leading space included; bytes that are not whole characters read `\\xe2`."""
    byte_level, metaspace = _scheme(tokenizer)
    texts = []
    for number, piece in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if piece is None:
            texts.append(f"[{number}]")  # a row of the embedding beyond the vocabulary, added as padding
        elif number in tokenizer.added_tokens_decoder:
            texts.append(piece)
        elif byte_level:
            texts.append(_as_text(bytes(_BYTE_OF[character] for character in piece)))
        elif metaspace:
            texts.append(_as_text(bytes.fromhex(piece[3:5])) if _is_byte(piece) else piece.replace("▁", " "))
        else:
            texts.append(piece)
    return texts


def _scheme(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether pieces spell bytes as GPT-2 does, and whether they spell spaces as SentencePiece does."""
    decoder = tokenizer.backend_tokenizer.decoder
    state = decoder.__getstate__().decode() if decoder is not None else ""  # the whole tokenizer's takes long to write
    return "ByteLevel" in state, "▁" in state


def _as_text(piece: bytes) -> str:
    return piece.decode("utf-8", errors="backslashreplace")


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
