"""What speaks for a head's role besides its effect: where it looks, and what it then writes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ioi.prompts import name_tokens
from workbench.attention import PATTERN
from workbench.attribution import attribute
from workbench.copying import copying_scores
from workbench.errors import ModelError
from workbench.metrics import LOGIT
from workbench.model import HookedModel
from workbench.prompts import PromptPairs
from workbench.sweep import rows_at_once

LOOKS = (
    ("end", "IO"),
    ("end", "S1"),
    ("end", "S2"),
    ("S2", "S1"),
    ("S2", "S1+1"),
    ("S2", "S2"),
    ("S1+1", "S1"),
)
"""(query, key) of the attention that tells roles apart."""
COPYING, CORRELATION = "copying", "correlation"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Measures of every head, by name; NaN where a model does not allow one.

    `"end→IO"` and its like: mean attention between named positions. "copying": the copying score for names (see
    `workbench.copying`). "correlation": Pearson's, over prompts and both names, of how much the head looks from the end
    at a name, and how much it adds to the name's logit.
    """

    by_name: dict[str, Float[Tensor, "layer head"]]

    def of(self, layer: int, head: int, names: Sequence[str]) -> dict[str, float]:
        return {name: self.by_name[name][layer, head].item() for name in names}


def looks(query: str, key: str) -> str:
    return f"{query}→{key}"


def collect(model: HookedModel, groups: Sequence[PromptPairs]) -> Evidence:
    """All evidence on the clean prompts, whose groups have named positions."""
    attention = _attention(model, groups)
    found = {looks(*pair): values.mean(0) for pair, values in attention.items()}
    try:
        found[COPYING] = copying_scores(model, tokens=name_tokens(groups)).copying
    except ModelError:  # heads that cannot be read apart from a prompt
        found[COPYING] = torch.full_like(found[looks("end", "IO")], torch.nan)
    swapped = [replace(group, answers=group.distractors, distractors=group.answers) for group in groups]
    try:
        written = [attribute(model, pairs, by="head", metric=LOGIT).parts["head"] for pairs in (groups, swapped)]
    except ModelError:  # logits that are no sum over heads
        written = [torch.full_like(attention["end", "IO"], torch.nan)] * 2
    looked = torch.cat([attention["end", "IO"], attention["end", "S1"] + attention["end", "S2"]])
    found[CORRELATION] = _pearson(looked, torch.cat(written).to(looked))
    return Evidence(found)


def _attention(
    model: HookedModel, groups: Sequence[PromptPairs]
) -> dict[tuple[str, str], Float[Tensor, "example layer head"]]:
    parts: dict[tuple[str, str], list[Tensor]] = {pair: [] for pair in LOOKS}
    for group in groups:
        for tokens in group.clean.split(rows_at_once(model.info, group.clean.shape[1])):
            patterns = model.run(tokens, capture=[PATTERN]).stack(PATTERN).float().cpu()
            for (query, key), part in parts.items():
                part.append(patterns[..., group.positions[query], group.positions[key]].transpose(0, 1))
    return {pair: torch.cat(part) for pair, part in parts.items()}


def _pearson(x: Float[Tensor, "point layer head"], y: Float[Tensor, "point layer head"]) -> Float[Tensor, "layer head"]:
    x, y = x - x.mean(0), y - y.mean(0)
    return (x * y).sum(0) / (x.square().sum(0) * y.square().sum(0)).sqrt()
