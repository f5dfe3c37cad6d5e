"""What each page can show: its path, and the state that its URL holds."""

from dataclasses import dataclass
from typing import ClassVar

from app.state import State

NO_HEAD = -1
LOWEST_DENSITY = -6.0
"""log10 of the density at the left end of the slider, which stands for no limit."""


@dataclass(frozen=True)
class Start(State):
    """The start page has no state."""

    PATH: ClassVar[str] = "/"


@dataclass(frozen=True)
class Attention(State):
    """An empty prompt stands for the model's first sample; no head for the best at the chosen score."""

    PATH: ClassVar[str] = "/attention"
    prompt: str = ""
    layer: int = NO_HEAD
    head: int = NO_HEAD
    score: str = "induction"


@dataclass(frozen=True)
class Lens(State):
    """An empty prompt stands for the model's first sample."""

    PATH: ClassVar[str] = "/lens"
    prompt: str = ""
    show: str = "probability"
    cells: str = "token"


@dataclass(frozen=True)
class Features(State):
    """Sorting, filters and page of the table. Densities are log10 of the share of tokens."""

    PATH: ClassVar[str] = "/features"
    sae: str = ""
    sort: str = "density"
    order: str = "down"
    search: str = ""
    concept: str = ""
    rare: float = LOWEST_DENSITY
    common: float = 0.0
    least: float = 0.0
    page: int = 1


@dataclass(frozen=True)
class Text(State):
    """Which features fire on a text: on all of it, or at the token in place `at`."""

    PATH: ClassVar[str] = "/text"
    sae: str = ""
    prompt: str = ""
    at: int = -1


@dataclass(frozen=True)
class Feature(State):
    """Which latent of which SAE, and the reader's own text."""

    PATH: ClassVar[str] = "/feature"
    sae: str = ""
    latent: int = 0
    text: str = ""
