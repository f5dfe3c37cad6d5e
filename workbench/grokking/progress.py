"""Progress measures: quantities that show the circuit growing while the test loss does not move.

Source: Nanda et al. 2023, section 5. Those that need frequencies take the ones that the finished model uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.grokking.fourier import basis, coefficients, explained, frequency_norms, key_frequencies
from workbench.grokking.model import Adder, all_logits, all_pairs
from workbench.grokking.setting import Setting
from workbench.grokking.training import Checkpoint, scores


def wave_part(logits: Float[Tensor, "p p p"], keys: Sequence[int]) -> Float[Tensor, "p p"]:
    """The part of the logits `[a, b, c]` along cos(w(a + b)) and sin(w(a + b)), for the frequencies `keys`.

    It depends on a and b by their sum only: row s is that of all pairs with a + b = s.
    """
    p = len(logits)
    waves = basis(p)[[row for k in keys for row in (2 * k - 1, 2 * k)]]
    return waves.T @ (waves @ _by_sum(logits))


def _by_sum(logits: Float[Tensor, "p p p"]) -> Float[Tensor, "p p"]:
    """The mean of the logits over the p pairs of each sum."""
    p = len(logits)
    mean = torch.zeros(p, p, dtype=torch.double)
    return mean.index_add_(0, all_pairs(p).sum(1) % p, logits.double().flatten(0, 1)) / p


def restricted_logits(logits: Float[Tensor, "p p p"], keys: Sequence[int]) -> Float[Tensor, "p p p"]:
    """Only the waves of a + b with the key frequencies, and the mean over all pairs."""
    p = len(logits)
    return (wave_part(logits, keys) + logits.double().mean((0, 1)))[all_pairs(p).sum(1) % p].unflatten(0, (p, p))


def excluded_logits(logits: Float[Tensor, "p p p"], keys: Sequence[int]) -> Float[Tensor, "p p p"]:
    """All but the waves of a + b with the key frequencies."""
    p = len(logits)
    return logits.double() - wave_part(logits, keys)[all_pairs(p).sum(1) % p].unflatten(0, (p, p))


def trig_logits(logits: Float[Tensor, "p p p"], keys: Sequence[int]) -> Float[Tensor, "p p p"]:
    """Only the waves cos(w(a + b - c)) with the key frequencies: the algorithm that the paper found, with the strengths
    that the model gives to them.
    """
    p = len(logits)
    strength = coefficients(logits)
    cosines = basis(p)[1::2] * (p / 2) ** 0.5
    by_residue = sum((strength[k - 1] * cosines[k - 1] for k in keys), torch.zeros(p, dtype=torch.double))
    a, b, c = torch.meshgrid(*[torch.arange(p)] * 3, indexing="ij")
    return by_residue[(a + b - c) % p]


def gini(values: Float[Tensor, " n"]) -> float:
    """The Gini coefficient: 0 if all are equal, near 1 if one has it all."""
    ordered, n = values.sort().values, len(values)
    weights = 2 * torch.arange(1, n + 1, dtype=values.dtype) - n - 1
    return (weights @ ordered / (n * ordered.sum().clamp_min(1e-30))).item()


@dataclass(frozen=True)
class Phases:
    """The steps at which the paper's three phases end; None for one that has not ended, and for those after it."""

    memorised: int | None
    """The excluded loss is least: from here on the model leans on the circuit ever more."""
    formed: int | None
    """The test loss was last above half of its peak: from here on it falls, as what was learned by heart decays."""
    cleaned: int | None
    """The test loss has come within ten times its least, if that is less than a hundredth of its peak."""

    def __str__(self) -> str:
        names = ("memorisation", "circuit formation", "cleanup")
        ended = [f"{name} to step {end:,}" for name, end in zip(names, vars(self).values(), strict=True) if end]
        return "; ".join(ended) or "memorisation not ended"


def find_phases(
    step: Int[Tensor, " checkpoint"],
    test_loss: Float[Tensor, " checkpoint"],
    excluded_loss: Float[Tensor, " checkpoint"],
) -> Phases:
    """The phases, read off two curves."""
    least, peak = test_loss.min(), test_loss.max()
    formed = int((test_loss >= peak / 2).nonzero()[-1])
    memorised = int(excluded_loss[: formed + 1].argmin())
    cleaned = int((test_loss <= 10 * least).nonzero()[0])
    last = len(step) - 1
    ended = (0 < memorised < last, memorised <= formed < last, formed < cleaned and least < peak / 100)
    ends = [int(step[at]) if all(ended[: n + 1]) else None for n, at in enumerate((memorised, formed, cleaned))]
    return Phases(*ends)


@dataclass(frozen=True, eq=False)
class Progress:
    """How a training went, a row for each checkpoint. Losses in nats a sum."""

    setting: Setting
    keys: tuple[int, ...]
    """The key frequencies of the last checkpoint, strongest first."""
    step: Int[Tensor, " checkpoint"]
    train_loss: Float[Tensor, " checkpoint"]
    test_loss: Float[Tensor, " checkpoint"]
    train_accuracy: Float[Tensor, " checkpoint"]
    test_accuracy: Float[Tensor, " checkpoint"]
    restricted_loss: Float[Tensor, " checkpoint"]
    """On test sums, with only the key frequencies' waves: falls as the circuit forms."""
    excluded_loss: Float[Tensor, " checkpoint"]
    """On training sums, without them: rises as the model comes to rely on the circuit."""
    trig_loss: Float[Tensor, " checkpoint"]
    """On test sums, with cos(w(a + b - c)) alone."""
    explained: Float[Tensor, " checkpoint"]
    """The share of the logits' variance that these cosines explain."""
    weight_norm: Float[Tensor, " checkpoint"]
    """The sum of the squares of all weights."""
    embedding: Float[Tensor, "checkpoint frequency"]
    """The norm of the embedding at each frequency."""
    embedding_gini: Float[Tensor, " checkpoint"]
    """The Gini coefficient of those norms."""
    neuron_logit_gini: Float[Tensor, " checkpoint"]
    """The same for the map from neurons to logits, W_U W_out."""

    @property
    def phases(self) -> Phases:
        return find_phases(self.step, self.test_loss, self.excluded_loss)


@torch.no_grad()
def progress(checkpoints: Sequence[Checkpoint], setting: Setting) -> Progress:
    """Measure every checkpoint with the key frequencies of the last."""
    keys = key_frequencies(all_logits(checkpoints[-1].adder(setting)))
    rows = [_measure(checkpoint.adder(setting), setting, keys) for checkpoint in checkpoints]
    columns = {name: torch.tensor([row[name] for row in rows], dtype=torch.double) for name in rows[0]}
    embedding = torch.stack([frequency_norms(checkpoint.weights["W_E"][:-1]) for checkpoint in checkpoints])
    steps = torch.tensor([checkpoint.step for checkpoint in checkpoints])
    return Progress(setting=setting, keys=keys, step=steps, embedding=embedding, **columns)


def _measure(adder: Adder, setting: Setting, keys: Sequence[int]) -> dict[str, float]:
    logits = all_logits(adder)
    return {
        **vars(scores(logits, setting)),
        "restricted_loss": scores(restricted_logits(logits, keys), setting).test_loss,
        "excluded_loss": scores(excluded_logits(logits, keys), setting).train_loss,
        "trig_loss": scores(trig_logits(logits, keys), setting).test_loss,
        "explained": explained(logits)[[k - 1 for k in keys]].sum().item(),
        "weight_norm": sum(weight.square().sum().item() for weight in adder.parameters()),
        "embedding_gini": gini(frequency_norms(adder.W_E[:-1])),
        "neuron_logit_gini": gini(frequency_norms(adder.W_U @ adder.W_out)),
    }
