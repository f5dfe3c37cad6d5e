"""Remarks on a prompt that ran but was not wholly understood."""

from typing import TYPE_CHECKING, Any

from dash import html

from app.components.notice import remark
from app.prompts import unknown_words

if TYPE_CHECKING:
    from workbench.model import HookedModel


def remarks(model: "HookedModel", text: str) -> list[Any]:
    """Which words the model has never seen."""
    words = unknown_words(model, text)
    if not words:
        return []
    named = [part for word in words[:8] for part in (html.Code(word), " ")]
    more = f"and {len(words) - 8} more " if len(words) > 8 else ""
    verb = "is not a word" if len(words) == 1 else "are not words"
    return [remark(*named, more, f"{verb} of {model.info.name}'s vocabulary; it reads ", html.Code("<unk>"), " there.")]
