"""What each head tells some receivers, as a share of the clean logit difference: one step of the classification."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.bootstrap import intervals
from workbench.cells import Cells
from workbench.model import HookedModel
from workbench.path_patching import path_patching
from workbench.prompts import PromptPairs
from workbench.sweep import Place

Head = tuple[int, int]
"""(layer, head)"""
Places = Callable[[PromptPairs], Sequence[Place]]
"""Prompts with named positions -> the receivers of paths."""
READ = {"q": "queries", "k": "keys", "v": "values"}


def to_logits(_: PromptPairs) -> Sequence[Place]:
    """Paths without receivers end in the logits."""
    return ()


@dataclass(frozen=True, eq=False)
class PathStep(Cells):
    """The logit difference with the paths from each head to the receivers patched to p_ABC.

    An effect is the change of the logit difference, over that of the whole model; -1 takes all of it away.
    """

    receivers: str
    """In words."""
    whole: Float[Tensor, " example"]
    """The logit difference with nothing patched."""
    scale: Float[Tensor, " example"]
    """That of the whole model, which effects are shares of; not the same where heads are knocked out."""

    @cached_property
    def effect(self) -> Float[Tensor, "*cells"]:
        return (self.values - self.whole).mean(-1) / self.scale.mean()

    @cached_property
    def interval(self) -> tuple[Float[Tensor, "*cells"], Float[Tensor, "*cells"]]:
        return intervals(self.values - self.whole, self.scale)

    def __str__(self) -> str:
        scale = f"{len(self.whole)} prompts, shares of a logit difference of {self.scale.mean():.3f}"
        return "\n".join([f"Paths from each head to {self.receivers}: {scale}", *self.table()])

    def to_dict(self) -> dict[str, Any]:
        cells = super().to_dict()
        return {name: cells[name] for name in ("receivers", "axes", "labels", "effect", "low", "high", "raw")}


def path_step(
    model: HookedModel,
    groups: Sequence[PromptPairs],
    receivers: str,
    places: Places = to_logits,
    *,
    scale: Float[Tensor, " example"] | None = None,
    on_group: Callable[[], None] | None = None,
) -> PathStep:
    """Patch the paths from every head to `places` of each group, or to the logits, one head at a time."""
    parts = []
    for group in groups:
        parts.append(path_patching(model, group, receivers=places(group), direction="noise"))
        if on_group:
            on_group()
    values, whole = torch.cat([part.values for part in parts], -1), torch.cat([part.into for part in parts])
    return PathStep(parts[0].axes, parts[0].labels, values, receivers, whole, whole if scale is None else scale)


def reading(model: HookedModel, heads: Sequence[Head], what: str, position: str) -> Places:
    """The queries, keys or values (`what`, a key of `READ`) of some heads, at a named position.

    Query heads that share keys and values have one place together, so that what reaches it reaches all of them.
    """
    n_heads = model.info.n_heads
    shared = 1 if what == "q" else n_heads // model.info.n_kv_heads
    places = sorted({(layer, head // shared) for layer, head in heads})
    layers = {layer: [head for other, head in places if other == layer] for layer, _ in places}
    return lambda group: [
        Place(f"blocks.{layer}.attn.hook_{what}", heads=own, positions=[group.positions[position]])
        for layer, own in layers.items()
    ]
