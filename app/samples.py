"""Prompts that show something, for the open model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.session import Session

ENGLISH = (
    ("indirect object", "When Mary and John went to the store, John gave a drink to"),
    ("a fact", "The capital of France is the city of"),
    ("repetition", "The cat sat on the mat. The cat sat on the"),
    ("agreement", "The keys to the cabinet near the door"),
)
"""Prompts for any model of English."""


def prompts(session: "Session") -> tuple[tuple[str, str], ...]:
    """(what it shows, prompt) pairs."""
    return ENGLISH


def first(session: "Session") -> str:
    """The prompt a page starts with."""
    return prompts(session)[0][1]
