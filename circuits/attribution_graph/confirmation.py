"""Does the answer flip? Over many prompts, the latents that a graph names are turned off in the model itself.

For each prompt a graph explains the logit of the answer against that of the distractor, and `effects` ranks the latents
by how much of the difference goes through them. Two controls turn off as many latents that it does not name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.attribution_graph.graph import AttributionGraph, attribution_graph
from circuits.attribution_graph.interventions import Latent, effects, intervene, predict
from circuits.attribution_graph.transcoders import Transcoders
from workbench.errors import SettingError
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

NEAR = 5
"""A control latent is drawn from so many that are the nearest in activation."""


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Logit differences, answer minus distractor, when latents are turned off. Below 0 the answer has flipped.

    Of prompts that the model answers rightly; there are `n_wrong` others.
    """

    task: str
    sizes: tuple[int, ...]
    """How many latents are turned off."""
    n_wrong: int
    clean: Float[Tensor, " prompt"]
    predicted: Float[Tensor, "prompt size"]
    """By the graph, of the latents that it names."""
    named: Float[Tensor, "prompt size"]
    """Measured, of the latents that the graph names."""
    as_active: Float[Tensor, "prompt size"]
    """Measured, of others in the same layers that are about as active."""
    same_place: Float[Tensor, "prompt size"]
    """Measured, of others in the same layers and at the same positions, as far as there are any."""
    latents: list[list[Latent]]
    """What the graph of each prompt names, the strongest first."""

    def flips(self, which: str) -> Float[Tensor, " size"]:
        """The share of prompts whose answer flips; `which` is "named", "as_active", "same_place" or "predicted"."""
        return (getattr(self, which) < 0).float().mean(0)

    def __str__(self) -> str:
        n = len(self.clean)
        lines = [
            f"{self.task}: latents turned off in {n} prompts that the model answers rightly ({self.n_wrong} others); "
            f"mean logit difference {self.clean.mean():.2f}",
            f"  {'':14}{'the answer flips':^36}   {'mean logit difference':^36}",
            f"  {'latents off':<14}" + f"{'named':>9}{'as active':>12}{'same place':>12}      " * 2 + "predicted",
        ]
        kinds = ("named", "as_active", "same_place")
        for i, size in enumerate(self.sizes):
            flips = "".join(f"{self.flips(kind)[i]:>{w}.0%}" for kind, w in zip(kinds, (9, 12, 12), strict=True))
            kept = "".join(f"{getattr(self, k)[:, i].mean():>{w}.2f}" for k, w in zip(kinds, (9, 12, 12), strict=True))
            lines.append(f"  {size:<14}{flips}      {kept}      {self.predicted[:, i].mean():9.2f}")
        return "\n".join(line.rstrip() for line in lines)


def confirm(
    model: HookedModel,
    pairs: Sequence[PromptPairs],
    transcoders: Transcoders,
    *,
    sizes: Sequence[int] = (1, 3, 10),
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Confirmation:
    """Turn off the latents that each clean prompt's graph says the answer rests on, and as many others.

    `on_progress` is called with the prompts done and those there are. Raises `SettingError` for sizes below 1 or
    falling, and if the model answers no prompt rightly.
    """
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise SettingError(f"sizes must be rising numbers of latents, 1 or more, not {list(sizes)}")
    generator = torch.Generator().manual_seed(seed)
    examples = [(group, row) for group in pairs for row in range(len(group))]
    rows: list[tuple[Tensor, ...]] = []
    for done, (group, row) in enumerate(examples, start=1):
        tokens, answer, distractor = group.clean[row], int(group.answers[row]), int(group.distractors[row])
        logits = model.run(tokens).logits[0, -1]
        if logits[answer] > logits[distractor]:
            rows.append(_one_prompt(model, tokens, answer, distractor, transcoders, sizes, generator))
        if on_progress:
            on_progress(done, len(examples))
    if not rows:
        raise SettingError("the model answers none of these prompts rightly, so no answer can flip")
    clean, predicted, named, as_active, same_place, latents = zip(*rows, strict=True)
    columns = (torch.stack(column) for column in (clean, predicted, named, as_active, same_place))
    return Confirmation(pairs[0].name, tuple(sizes), len(examples) - len(rows), *columns, list(latents))


def _one_prompt(
    model: HookedModel,
    tokens: Int[Tensor, " pos"],
    answer: int,
    distractor: int,
    transcoders: Transcoders,
    sizes: Sequence[int],
    generator: torch.Generator,
) -> tuple:
    graph = attribution_graph(model, tokens, transcoders, logits=[answer], against=distractor)
    order = effects(graph)[0].argsort(descending=True)[: sizes[-1]]
    places = [Latent(*place) for place in graph.latents.tolist()]
    groups = [order, *(_others(graph, order, generator, where) for where in ((0,), (0, 1)))]
    latents = [[places[i] for i in group.tolist()] for group in groups]
    sets = [group[:size] for group in latents for size in sizes]
    measured = intervene(model, tokens, transcoders, [[], *sets])
    difference = measured[:, answer] - measured[:, distractor]
    foretold = torch.stack([predict(graph, latents[0][:size])[0] for size in sizes])
    n = len(sizes)
    return difference[0], difference[0] + foretold, *difference[1:].split(n), latents[0]


def _others(
    graph: AttributionGraph, chosen: Int[Tensor, " latent"], generator: torch.Generator, alike: tuple[int, ...]
) -> Int[Tensor, " latent"]:
    """For each chosen latent another, at random among the nearest in activation of those that are `alike` in layer (0)
    and position (1); if there are none left there, among all. None is taken twice.
    """
    free = torch.ones(graph.n_latents, dtype=torch.bool)
    free[chosen] = False
    found = []
    for latent in chosen.tolist():
        same = (graph.latents[:, alike] == graph.latents[latent, list(alike)]).all(1) & free
        candidates = (same if same.any() else free).nonzero()[:, 0]
        if not len(candidates):
            break
        distance = (graph.activations[candidates] - graph.activations[latent]).abs()
        near = candidates[distance.argsort()[:NEAR]]
        pick = near[torch.randint(len(near), (1,), generator=generator)].item()
        free[pick] = False
        found.append(pick)
    return torch.tensor(found, dtype=torch.long)
