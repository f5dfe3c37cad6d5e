"""A neuron in full, and a table of neurons: what is known of all of them, for one or a few."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import SettingError
from workbench.memories import Memories
from workbench.unit_activity import Example

AGAINST = 3
"""Contexts shown on the side that a neuron is not taken on."""


@dataclass(frozen=True)
class NeuronPage:
    """One neuron as a key–value memory, on the side on which it reaches further from zero."""

    layer: int
    neuron: int
    sign: int
    n_tokens: int
    mean: float
    deviation: float
    positive: float
    """Share of tokens on which it is above zero."""
    agreement: float
    """Share of triggers that are followed by one of the promoted tokens."""
    promoted: list[tuple[str, float]]
    """Tokens and effects on their logits, the most raised first."""
    suppressed: list[tuple[str, float]]
    triggers: list[Example]
    """The contexts in which it reaches furthest on its side."""
    against: list[Example]
    """Some of those in which it reaches furthest on the other."""
    edges: Float[np.ndarray, " edge"]
    counts: Int[np.ndarray, " bin"]
    """Tokens whose activation lies between an edge and the next."""

    @property
    def name(self) -> str:
        return f"neuron {self.neuron} of layer {self.layer}"

    def __str__(self) -> str:
        lines = [
            f"{self.name.capitalize()}, over {self.n_tokens:,} tokens",
            f"  activation {self.mean:.3f} ± {self.deviation:.3f}, above zero on {self.positive:.0%}",
            f"  promotes{' when below zero' if self.sign < 0 else ''}: {_words(self.promoted)}",
            f"  suppresses: {_words(self.suppressed)}",
            f"  {self.agreement:.0%} of these contexts are followed by a token that it promotes:",
            *(f"    {example.value:+8.2f}  {example}" for example in self.triggers),
            "  on the other side of zero:",
            *(f"    {example.value:+8.2f}  {example}" for example in self.against),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class NeuronTable:
    """The neurons of a layer whose keys and values agree best."""

    layer: int
    n_neurons: int
    rate: float
    """Share of all neurons' triggers that are followed by a promoted token."""
    chance: float
    summary: str
    neurons: list[NeuronPage]

    def __str__(self) -> str:
        lines = [self.summary]
        for page in self.neurons:
            lines.append(f"  {page.neuron:>5}  agrees {page.agreement:4.0%}  promotes {_words(page.promoted[:6])}")
            lines += [f"         {example.value:+8.2f}  {str(example)[-88:]}" for example in page.triggers[:2]]
        return "\n".join(lines)


def check_neuron(layer: int, neuron: int, n: int) -> None:
    """Raises `SettingError` for a neuron that a layer of `n` lacks."""
    if not 0 <= neuron < n:
        raise SettingError(f"layer {layer} has no neuron {neuron}; its neurons are 0 to {n - 1}")


def neuron_page(memories: Memories, neuron: int) -> NeuronPage:
    """All that is known of one neuron. Raises `SettingError` for one that the layer lacks."""
    check_neuron(memories.layer, neuron, len(memories.sign))
    activity, up = memories.activity, bool(memories.sign[neuron] > 0)
    ours, others = (activity.highest, activity.lowest) if up else (activity.lowest, activity.highest)
    return NeuronPage(
        layer=memories.layer,
        neuron=neuron,
        sign=int(memories.sign[neuron]),
        n_tokens=activity.n_tokens,
        mean=activity.mean[neuron].item(),
        deviation=activity.deviation[neuron].item(),
        positive=activity.positive[neuron].item(),
        agreement=memories.agreement[neuron].item(),
        promoted=_effects(memories, neuron, "promoted", "effects"),
        suppressed=_effects(memories, neuron, "suppressed", "negative_effects"),
        triggers=activity.examples(ours, neuron),
        against=activity.examples(others, neuron)[:AGAINST],
        edges=activity.edges(neuron),
        counts=activity.counts[neuron].numpy(),
    )


def neuron_table(memories: Memories, n: int = 10) -> NeuronTable:
    """The `n` neurons whose key and value agree best; of equals, those that reach furthest in their deviations."""
    pages = [neuron_page(memories, neuron) for neuron in memories.ranked()[:n]]
    return NeuronTable(memories.layer, len(memories.sign), memories.rate, memories.chance, str(memories), pages)


def _effects(memories: Memories, neuron: int, tokens: str, values: str) -> list[tuple[str, float]]:
    rows = getattr(memories, tokens)[neuron].tolist(), getattr(memories, values)[neuron].tolist()
    return [(memories.strings[token], value) for token, value in zip(*rows, strict=True)]


def _words(effects: list[tuple[str, float]]) -> str:
    return " ".join(repr(word) for word, _ in effects)
