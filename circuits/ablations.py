"""Ablations: what stands in for the output of a node where an edge is taken away.

* resample: what the node wrote in the corrupted run of the same pair (Chan et al. 2022, "Causal Scrubbing").
* zero: nothing. Constants of a layer (the output bias of attention) are no node's, and stay.
* mean: the mean, at each position, over a reference set of prompts (Wang et al. 2022, arXiv:2211.00593).
* optimal: the constant that serves the model best in the node's place; `circuits.optimal` finds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.choice import Choice
from circuits.layout import Layout, Trace, take_apart
from workbench.errors import PromptError, SettingError
from workbench.model import HookedModel


@dataclass(frozen=True, eq=False)
class Ablation:
    """A way to ablate: by the corrupted run, or by constants."""

    name: str
    states: Mapping[int, tuple[Tensor, ...]] | None = field(default=None, repr=False)
    """Constants for prompts of each length: of the embedding, then the state of each stage but the logits, [1 pos ...].
    None: what the corrupted run has. Empty: zeros, for every length."""

    def apply(self, layout: Layout, clean: Trace, corrupted: Trace | None) -> Trace:
        """The run in which every node writes what it is ablated to. Raises `PromptError` for an unknown length."""
        if self.states is None:
            return corrupted
        if not self.states:
            return layout.reading([torch.zeros_like(state[:1]) for state in clean.states])
        length = clean.states[0].shape[1]
        if length not in self.states:
            made = ", ".join(map(str, self.states))
            raise PromptError(f"{self.name} ablation was made for prompts of {made} tokens, and these have {length}")
        return layout.reading(list(self.states[length]))


RESAMPLE = Ablation("resample")
ZERO = Ablation("zero", {})


def ablation_named(name: str) -> Ablation:
    """Raises `SettingError` for an unknown name. Mean and optimal ablation are made from prompts instead."""
    known = {ablation.name: ablation for ablation in (RESAMPLE, ZERO)}
    if name not in known:
        raise SettingError(f"no ablation {name!r}; by name there are {', '.join(known)}")
    return known[name]


@torch.no_grad()
def mean_ablation(
    model: HookedModel,
    references: Int[Tensor, "prompt pos"] | Sequence[Int[Tensor, "_ _"]],
    *,
    units: Mapping[int, Choice] | None = None,
    batch_size: int = 32,
) -> Ablation:
    """The mean of what each node writes at each position, over reference prompts; for each length, its own.

    Under a norm after the layer (Gemma 2), of what is written after it. `units` as of the experiment that it is for.
    """
    groups = [references] if isinstance(references, Tensor) else list(references)
    totals: dict[int, list[Tensor]] = {}
    counts: dict[int, int] = {}
    for tokens in groups:
        length = tokens.shape[1]
        layout = take_apart(model, tokens, units)
        for rows in tokens.split(batch_size):
            sums = [state.sum(0, keepdim=True) for state in layout.run(layout.embed(rows)).states]
            old = totals.get(length)
            totals[length] = sums if old is None else [a + b for a, b in zip(old, sums, strict=True)]
            counts[length] = counts.get(length, 0) + len(rows)
    if not totals:
        raise PromptError("mean ablation needs at least one reference prompt")
    return Ablation("mean", {length: tuple(s / counts[length] for s in sums) for length, sums in totals.items()})
