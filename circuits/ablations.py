"""Ablations: what stands in for the output of a node where an edge is taken away.

* resample: what the node wrote in the corrupted run of the same pair (Chan et al. 2022, "Causal Scrubbing").
* zero: nothing. Constants of a layer (the output bias of attention) are no node's, and stay.
* mean: the mean, at each position, over a reference set of prompts (Wang et al. 2022, arXiv:2211.00593).
* optimal: the constant that serves the model best in the node's place (Li & Janson 2024, arXiv:2409.09951).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.layout import Layout, Trace, take_apart
from workbench.errors import PromptError, SettingError
from workbench.model import HookedModel


@dataclass(frozen=True, eq=False)
class Ablation:
    """A way to ablate; `states` hold a constant for each node, or None where they depend on the pair."""

    name: str
    states: tuple[Tensor, ...] | None = None
    """The embedding, then the state of each stage but the logits, [1 pos ...]."""

    def apply(self, layout: Layout, clean: Trace, corrupted: Trace | None) -> Trace:
        """What the nodes write when ablated, and what every stage then reads if all of them are."""
        if self.name == "resample" and corrupted is not None:
            return corrupted
        if self.states is not None:
            states = list(self.states)
            length = clean.states[0].shape[1]
            if states[0].shape[1] != length:
                found = f"it was made for prompts of {states[0].shape[1]} tokens"
                raise PromptError(f"{self.name} ablation does not fit prompts of {length} tokens; {found}")
        else:
            states = [torch.zeros_like(state[:1]) for state in clean.states]
        return layout.reading(states)


RESAMPLE = Ablation("resample")
ZERO = Ablation("zero")


def ablation_named(name: str) -> Ablation:
    """Raises `SettingError` for an unknown name. Mean and optimal ablation are made from prompts instead."""
    known = {ablation.name: ablation for ablation in (RESAMPLE, ZERO)}
    if name not in known:
        raise SettingError(f"no ablation {name!r}; by name there are {', '.join(known)}")
    return known[name]


@torch.no_grad()
def mean_ablation(model: HookedModel, tokens: Int[Tensor, "prompt pos"], *, batch_size: int = 32) -> Ablation:
    """The mean of what each node writes at each position over reference prompts of one length."""
    layout = take_apart(model, tokens)
    totals: Sequence[Tensor] | None = None
    for rows in tokens.split(batch_size):
        states = layout.run(layout.embed(rows)).states
        sums = [state.sum(0, keepdim=True) for state in states]
        totals = sums if totals is None else [total + more for total, more in zip(totals, sums, strict=True)]
    if totals is None:
        raise PromptError("mean ablation needs at least one reference prompt")
    return Ablation("mean", tuple(total / len(tokens) for total in totals))
