"""Metrics: one number a prompt for how far a model's logits speak for the answer.

Signs are pinned: a higher logit, probability, or difference of them is more of the answer; a higher loss, KL or
L2 is less.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.errors import SettingError
from workbench.prompts import PromptPairs

Logits = Float[Tensor, "... example d_vocab"]
Values = Float[Tensor, "... example"]


@dataclass(frozen=True)
class Metric:
    """A number for each prompt, from the logits at its last position.

    A function of the user's own makes one: `Metric("mine", lambda logits, pairs, clean: ...)`.
    """

    name: str
    compute: Callable[[Logits, PromptPairs, Float[Tensor, "example d_vocab"]], Values]
    """(logits, pairs, the clean prompts' logits) -> values; axes before the examples, as of many patches, stay."""
    unit: str = ""

    def __call__(self, logits: Logits, pairs: PromptPairs, clean: Float[Tensor, "example d_vocab"]) -> Values:
        return self.compute(logits, pairs, clean)


def _at(logits: Logits, tokens: Tensor) -> Values:
    """The entry of each row that its token names."""
    index = tokens.to(logits.device).expand(logits.shape[:-1])[..., None]
    return logits.gather(-1, index)[..., 0]


def _kl(logits: Logits, pairs: PromptPairs, clean: Float[Tensor, "example d_vocab"]) -> Values:
    clean = clean.float().log_softmax(-1)
    return (clean.exp() * (clean - logits.float().log_softmax(-1))).sum(-1)


def _probability_difference(logits: Logits, pairs: PromptPairs, _: Tensor) -> Values:
    probabilities = logits.float().softmax(-1)
    if pairs.choices is None:
        return _at(probabilities, pairs.answers) - _at(probabilities, pairs.distractors)
    sign = pairs.right.to(logits.device) * 2.0 - 1.0
    return (probabilities[..., pairs.choices.to(logits.device)] * sign).sum(-1)


LOGIT_DIFFERENCE = Metric(
    "logit_difference", lambda logits, pairs, _: _at(logits, pairs.answers) - _at(logits, pairs.distractors), "logits"
)
"""Logit of the answer minus that of the distractor."""
LOGIT = Metric("logit", lambda logits, pairs, _: _at(logits, pairs.answers), "logits")
PROBABILITY = Metric("probability", lambda logits, pairs, _: _at(logits.float().softmax(-1), pairs.answers))
PROBABILITY_DIFFERENCE = Metric("probability_difference", _probability_difference)
"""Probability of the right answers less that of the wrong ones: of all choices if there are some (Hanna et al. 2023,
arXiv:2305.00586), otherwise of the answer and the distractor."""
LOSS = Metric("loss", lambda logits, pairs, _: -_at(logits.float().log_softmax(-1), pairs.answers), "nats")
"""Minus the log-probability of the answer."""
KL = Metric("kl", _kl, "nats")
"""KL(clean ‖ this): how far the whole distribution is from the clean prompts'."""
L2 = Metric("l2", lambda logits, _, clean: (logits.float() - clean.float()).pow(2).sum(-1), "logits²")
"""Squared distance to the clean prompts' logits, for models whose logits are not of probabilities."""

_ALL = (LOGIT_DIFFERENCE, LOGIT, PROBABILITY, PROBABILITY_DIFFERENCE, LOSS, KL, L2)
METRICS = {metric.name: metric for metric in _ALL}


def metric_named(name: str) -> Metric:
    """Raises `SettingError` for an unknown name."""
    if name not in METRICS:
        raise SettingError(f"no metric {name!r}; the metrics are {', '.join(METRICS)}")
    return METRICS[name]
