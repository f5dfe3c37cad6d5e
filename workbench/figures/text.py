"""Tokens as text in a picture: blanks made visible, markup made harmless."""

from html import escape

VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(token: str) -> str:
    """A token with its leading spaces as `·` and its control characters as signs, so that no two tokens look alike."""
    if not token:
        return "∅"
    body = token.lstrip(" ")
    return "·" * (len(token) - len(body)) + "".join(map(_sign, body))


def _sign(character: str) -> str:
    """A character that can be seen, and that an SVG may hold."""
    if character in VISIBLE or character.isprintable():
        return VISIBLE.get(character, character)
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


def label(token: str) -> str:
    """`visible`, safe where plotly reads a little HTML: `<bos>` stays `<bos>`, and no prompt adds a tag or a link."""
    return escape(visible(token), quote=False)


def shorten(text: str, length: int) -> str:
    """`text` cut to `length` characters, the last of them an ellipsis if anything was cut."""
    return text if len(text) <= length else text[: length - 1] + "…"
