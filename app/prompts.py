"""What to say about a prompt that runs, and prompts to start from."""

from typing import TYPE_CHECKING

from workbench.errors import PromptError

if TYPE_CHECKING:
    from workbench.model import HookedModel


def checked(model: "HookedModel", text: str | None) -> str:
    """`text` if there is any; `PromptError` otherwise. What else may be wrong with it, the model says."""
    if not (text or "").strip():
        raise PromptError("the prompt is empty; type a few words")
    return text


def unknown_words(model: "HookedModel", text: str) -> list[str]:
    """The words of `text` that the tokenizer does not know and reads as its unknown token, each once, in order."""
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.unk_token_id is None or not tokenizer.is_fast:
        return []
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    words = [text[start:end] for token, (start, end) in pairs if token == tokenizer.unk_token_id]
    return list(dict.fromkeys(word for word in words if word != tokenizer.unk_token))
