"""MLPs as key–value memories: what triggers each key, what each value promotes, and whether the two agree.

Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories" (arXiv:2012.14913). A neuron's input weights
are a key that some contexts trigger; its output row is a value, which adds the neuron's activation times itself to the
residual stream, and so promotes some tokens. Key and value *agree* if what follows the contexts that trigger the key is
among what the value promotes (section 4).

Here each neuron is taken on the side on which it reaches further from zero: in a gated MLP that is below zero for about
half of the neurons, and then the contexts are those in which the neuron is lowest, and the value is minus its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import SettingError
from workbench.extremes import BEFORE, Extremes
from workbench.model import HookedModel
from workbench.promotion import strongest_effects
from workbench.unit_activity import UnitActivity
from workbench.weights import mlp_weights, norm_of


@dataclass(frozen=True)
class Memories:
    """The key–value memories of one layer."""

    layer: int
    activity: UnitActivity
    sign: Int[Tensor, " neuron"]
    """The side on which each neuron is taken: 1 above zero, -1 below."""
    triggers: Extremes
    """The contexts that trigger each key: the highest or lowest of the neuron."""
    promoted: Int[Tensor, "neuron k"]
    """The tokens that the value promotes most, best first."""
    effects: Float[Tensor, "neuron k"]
    """How much, see `workbench.promotion`."""
    suppressed: Int[Tensor, "neuron k"]
    """The tokens that the value lowers most, lowest first."""
    negative_effects: Float[Tensor, "neuron k"]
    agrees: Bool[Tensor, "neuron place"]
    """Whether the token after each trigger is among the promoted."""
    has_next: Bool[Tensor, "neuron place"]
    """Whether there is such a trigger with a token after it."""
    chance: float
    """The share that would agree if values belonged to other neurons' keys."""
    strings: dict[int, str]
    """The text of each token named here, and of each in the triggers."""

    @property
    def agreement(self) -> Float[Tensor, " neuron"]:
        """The share of each neuron's triggers that are followed by a promoted token; NaN without any."""
        return (self.agrees & self.has_next).sum(1) / self.has_next.sum(1)

    @property
    def rate(self) -> float:
        """The agreement over all triggers of all neurons."""
        return float((self.agrees & self.has_next).sum() / self.has_next.sum())

    def __str__(self) -> str:
        return (
            f"{len(self.sign)} neurons of layer {self.layer} over {self.activity.n_tokens:,} tokens: the token after a "
            f"trigger is among the {self.promoted.shape[1]} that the value promotes for {self.rate:.1%} of triggers "
            f"(by chance {self.chance:.1%})"
        )

    def starts(self, neurons: Sequence[int], length: int) -> Int[Tensor, "neuron pos"]:
        """For each neuron the last tokens of its best trigger, up to the peak: where to begin to maximise it.

        No longer than the shortest of them.
        """
        up_to_peak = self.triggers.tokens[list(neurons), 0, : BEFORE + 1]
        length = min(length, int((up_to_peak >= 0).sum(1).min()))
        return up_to_peak[:, BEFORE + 1 - length :]

    def ranked(self) -> list[int]:
        """The neurons by agreement, those of equal agreement by how far they reach in units of their deviation."""
        reach = self.triggers.values[:, 0].abs() / self.activity.deviation.clamp_min(1e-12)
        agreement = self.agreement.nan_to_num(-1.0)
        order = reach.nan_to_num(-1.0).argsort(descending=True, stable=True)
        return order[agreement[order].argsort(descending=True, stable=True)].tolist()


@torch.no_grad()
def memories(model: HookedModel, layer: int, activity: UnitActivity, *, k: int = 10) -> Memories:
    """Keys and values of all neurons of a layer; `activity` is what `neuron_activity` found there.

    A value is the neuron's output row (with the gain of a norm after the MLP, as in Gemma 2), passed through the final
    norm's gain and the unembedding. Chance is exact: the mean over all pairs of a key and another neuron's value.
    Raises `ModelError` for a mixture of experts and for logits that are not the final norm and unembedding alone.
    """
    if not 1 <= k <= model.info.d_vocab // 2:
        raise SettingError(f"k is {k}; it must be between 1 and half of the vocabulary, {model.info.d_vocab // 2}")
    values = mlp_weights(model, layer).W_out * norm_of(model, layer, "ln2_post").gain
    high, low = activity.highest, activity.lowest
    upward = high.values[:, 0] >= -low.values[:, 0]
    sign = torch.where(upward, 1, -1)
    tokens, effects = strongest_effects(model, values.cpu() * sign[:, None], k)
    pairs = ((getattr(high, name), getattr(low, name)) for name in ("values", "tokens", "activations"))
    triggers = Extremes(*(_either(upward, *pair) for pair in pairs))
    promoted, suppressed = tokens[:, :k], tokens[:, k:]
    following = triggers.following
    has_next = (following >= 0) & (triggers.tokens[..., BEFORE] >= 0)
    agrees = (following[..., None] == promoted[:, None]).any(-1)
    named = tokens.unique()
    return Memories(
        layer=layer,
        activity=activity,
        sign=sign,
        triggers=triggers,
        promoted=promoted,
        effects=effects[:, :k],
        suppressed=suppressed,
        negative_effects=effects[:, k:],
        agrees=agrees,
        has_next=has_next,
        chance=_chance(following, has_next, agrees, promoted, model.info.d_vocab),
        strings=activity.strings | dict(zip(named.tolist(), model.token_strings(named), strict=True)),
    )


def _either(first: Bool[Tensor, " neuron"], one: Tensor, other: Tensor) -> Tensor:
    return torch.where(first.view(-1, *[1] * (one.ndim - 1)), one, other)


def _chance(
    following: Int[Tensor, "neuron place"],
    has_next: Bool[Tensor, "neuron place"],
    agrees: Bool[Tensor, "neuron place"],
    promoted: Int[Tensor, "neuron k"],
    d_vocab: int,
) -> float:
    """Agreements of each key's followers with all neurons' values, less those with its own, over as many pairs."""
    promoters = promoted.flatten().bincount(minlength=d_vocab).double()
    n_followers = has_next.sum()
    agreements = promoters[following[has_next]].sum() - (agrees & has_next).sum()
    return float(agreements / (n_followers * max(len(promoted) - 1, 1)))
