"""A task: something a model is asked, as prompt pairs in the tokens of that model, and the metric of its answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from workbench.errors import SettingError
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

Make = Callable[[HookedModel, int, int], list[PromptPairs]]
"""(model, n, seed) -> at least `n` pairs, spread evenly over the task's sentences, one `PromptPairs` a sentence."""


@dataclass(frozen=True)
class Task:
    """What is asked, and how. Equal seeds give equal prompts."""

    name: str
    asks: str
    """The question, in words."""
    make: Make = field(repr=False)
    metric: Metric = LOGIT_DIFFERENCE
    """Higher is more of the right answer."""
    needs: str = "a tokenizer that has common English words as single tokens"
    """What a model must have for it, in words."""

    def prompts(self, model: HookedModel, n: int = 64, *, seed: int = 0) -> list[PromptPairs]:
        """At least `n` prompt pairs. Raises `PromptError` if the model's tokens do not allow the task."""
        if n < 1:
            raise SettingError(f"n is {n}; a task makes at least 1 prompt pair")
        return self.make(model, n, seed)

    def __str__(self) -> str:
        return f"{self.name}: {self.asks} ({self.metric.name}; needs {self.needs})"
