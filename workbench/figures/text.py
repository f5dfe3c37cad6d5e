"""Tokens as text in a picture: blanks made visible, markup made harmless."""

from html import escape

VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(token: str) -> str:
    """A token with its leading space as `·` and its control characters as signs, so that no two tokens look alike."""
    if not token:
        return "∅"
    if token.isspace():
        return "".join(VISIBLE.get(character, "·") for character in token)
    body = "".join(VISIBLE.get(character, character) for character in token)
    stripped = body.lstrip(" ")
    return "·" * (len(body) - len(stripped)) + stripped


def label(token: str) -> str:
    """`visible`, safe where plotly reads a little HTML: `<bos>` stays `<bos>`, and no prompt adds a tag or a link."""
    return escape(visible(token), quote=False)


def shorten(text: str, length: int) -> str:
    """`text` cut to `length` characters, the last of them an ellipsis if anything was cut."""
    return text if len(text) <= length else text[: length - 1] + "…"
