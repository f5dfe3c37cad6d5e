"""Every score that a head can be given, under one name each: a number for each head, ready to rank or to draw."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.attention_profile import attention_profile
from workbench.copying import copying_scores
from workbench.corpus import Corpus
from workbench.errors import SettingError
from workbench.heads import head_scores
from workbench.model import HookedModel


@dataclass(frozen=True)
class Score:
    """A kind of score."""

    means: str
    """What it is, in a phrase."""
    low: float | None = None
    high: float | None = None
    """The ends of its scale, where it has any."""


SCORES = {
    "previous_token": Score("mean attention to the token just before, on repeated random tokens", 0, 1),
    "duplicate_token": Score("mean attention to the earlier copy of the token, on repeated random tokens", 0, 1),
    "induction": Score("mean attention to what followed the earlier copy, on repeated random tokens", 0, 1),
    "entropy": Score("mean entropy of the pattern's rows, in nats, over a corpus", 0),
    "distance": Score("mean distance of what is looked at, in tokens, over a corpus", 0),
    "positional": Score("share of the pattern's variance over a corpus that position alone explains", 0, 1),
    "copying": Score("share of tokens that OV promotes to the top 5, less those that minus OV does", -1, 1),
    "eigenvalue": Score("sum of the eigenvalues of the whole OV circuit over the sum of their sizes", -1, 1),
    "suppression": Score("share of tokens that the head looks for when they are predicted, and lowers", 0, 1),
}
_CORPUS = ("entropy", "distance", "positional")
_WEIGHTS = ("copying", "eigenvalue", "suppression")


@dataclass(frozen=True)
class HeadTable:
    """One score of every head."""

    name: str
    """A key of `SCORES`."""
    values: Float[Tensor, "layer head"]

    def ranked(self) -> list[tuple[int, int, float]]:
        """(layer, head, score), the highest first."""
        n_heads, flat = self.values.shape[1], self.values.flatten()
        order = flat.argsort(descending=True, stable=True).tolist()
        return [(i // n_heads, i % n_heads, flat[i].item()) for i in order]

    def __str__(self) -> str:
        lines = [f"{self.name.replace('_', ' ').capitalize()}: {SCORES[self.name].means}"]
        lines += [f"  {f'L{layer}H{head}':<8} {value:+.3f}" for layer, head, value in self.ranked()]
        return "\n".join(lines)


def head_table(
    model: HookedModel,
    name: str,
    corpus: Callable[[], Corpus],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> HeadTable:
    """The score called `name` of every head, with default settings. `corpus` is opened only for scores that read one.

    Raises `SettingError` for an unknown name.
    """
    if name not in SCORES:
        raise SettingError(f"no score {name!r}; heads have {', '.join(SCORES)}")
    if name in _CORPUS:
        result = attention_profile(model, corpus(), on_progress=on_progress)
    elif name in _WEIGHTS:
        result = copying_scores(model)
    else:
        result = head_scores(model)
    return HeadTable(name, getattr(result, name))
