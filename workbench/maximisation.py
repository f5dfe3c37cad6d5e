"""Prompts that drive neurons as high as they go, found by swapping tokens along the gradient.

Greedy coordinate gradient (Zou et al. 2023, arXiv:2307.15043, algorithm 1), after HotFlip (Ebrahimi et al. 2018,
arXiv:1712.06751): the gradient with respect to the embeddings ranks every swap of one token to first order; some of the
best are drawn at random, tried exactly, and the best of them is kept if it is better. Many units are driven at once:
each has a row of the batch to itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import SettingError
from workbench.heads import ordinary_tokens
from workbench.model import HookedModel, Run
from workbench.sites import axes
from workbench.tokens import starts_with_bos

ROWS = 512
"""Prompts that are run at a time."""
DRAWN = 1_024
"""Random prompts from which each unit's first are the best."""
BEAMS = 4
"""Prompts that are improved side by side for each unit, as swapping ends where no single swap helps."""


@dataclass(frozen=True)
class Maximisation:
    """The best prompt found for each unit of a site."""

    site: str
    units: list[int]
    sign: int
    """1 if the units were driven up, -1 if down."""
    activations: Float[Tensor, " unit"]
    """At the last token of the prompt."""
    losses: Float[Tensor, " unit"]
    """Nats a token of the prompt, the first left out: high for prompts that no text would hold."""
    tokens: Int[Tensor, "unit pos"]
    """The prompts, without a leading BOS that the model was given besides."""
    strings: list[list[str]]
    history: Float[Tensor, "step unit"]
    """The best objective so far: the activation towards `sign`, less the fluency's weight times the loss."""

    def __str__(self) -> str:
        lines = [f"Prompts that drive units of {self.site} {'up' if self.sign > 0 else 'down'} at their last token"]
        columns = (self.units, self.activations.tolist(), self.losses.tolist(), self.strings)
        for unit, activation, loss, words in zip(*columns, strict=True):
            joint = "" if any(word.startswith(" ") for word in words) else " "
            lines.append(f"  {unit:>6}  {activation:+8.2f}  loss {loss:5.2f}  {joint.join(words)!r}")
        return "\n".join(lines)


def maximise(
    model: HookedModel,
    site: str,
    units: Sequence[int],
    *,
    length: int = 8,
    steps: int = 40,
    candidates: int = 16,
    top: int = 32,
    fluency: float | int = 0.0,
    sign: int = 1,
    start: Int[Tensor, "unit pos"] | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Maximisation:
    """Find for each unit a prompt of `length` ordinary tokens that maximises `sign` times its activation at the end.

    Each step tries `candidates` swaps for each of `BEAMS` prompts of each unit, drawn from the `top` best of every
    position. `fluency` is what a nat a token of the prompt's loss costs. `start` gives the prompts to begin from, such
    as the best of a corpus; by default each unit's best of `DRAWN` random ones. A leading BOS is added for a model that
    was trained with one. The result depends on the arguments alone. Raises `UnknownSite`, `SettingError`.
    """
    width = _width(model, site)
    if not units or not all(0 <= unit < width for unit in units):
        raise SettingError(f"{site} has units 0 to {width - 1}; asked for {list(units)}")
    if min(length, candidates, top) < 1 or steps < 0 or sign not in (1, -1):
        raise SettingError("length, candidates and top must be at least 1, steps at least 0, sign 1 or -1")
    generator = torch.Generator().manual_seed(seed)
    search = _Search(model, site, torch.tensor(list(units)).repeat_interleave(BEAMS), sign, fluency)
    if start is not None and len(start) != len(units):
        raise SettingError(f"start has {len(start)} prompts for {len(units)} units")
    tokens = search.draw(length, generator) if start is None else start.repeat_interleave(BEAMS, dim=0)
    best, history, row = search.score(tokens), [], torch.arange(len(tokens))
    for step in range(steps):
        swapped = search.propose(tokens, min(top, len(search.allowed)), candidates, generator)
        found, which = search.score(swapped.flatten(0, 1)).view(len(tokens), -1).max(1)
        tokens = torch.where((found > best)[:, None], swapped[row, which], tokens)
        best = torch.maximum(found, best)
        history.append(best.view(-1, BEAMS).amax(1))
        if on_progress:
            on_progress(step + 1)
    winners = row.view(-1, BEAMS).gather(1, best.view(-1, BEAMS).argmax(1, keepdim=True))[:, 0]
    activations, losses = search.measure(tokens, fluent=True)
    return Maximisation(
        site=site,
        units=list(units),
        sign=sign,
        activations=sign * activations[winners],
        losses=losses[winners],
        tokens=tokens[winners],
        strings=[model.token_strings(prompt) for prompt in tokens[winners]],
        history=torch.stack(history) if history else torch.empty(0, len(units)),
    )


def _width(model: HookedModel, site: str) -> int:
    run = model.run(torch.zeros(1, 2, dtype=torch.long), capture=[site], stop_after=site)
    if len(run.sites) != 1 or axes(site).position != 1:
        raise SettingError(f"{site} must name one site with an activation of its own for each position")
    return run[run.sites[0]].flatten(2).shape[-1]


class _Search:
    """The objective of each unit, and swaps that its gradient likes. A unit stands once for each of its beams."""

    def __init__(self, model: HookedModel, site: str, units: Tensor, sign: int, fluency: float | int):
        self.model, self.site, self.units, self.sign, self.fluency = model, site, units, sign, float(fluency)
        self.allowed = ordinary_tokens(model)
        lead = model.tokenizer is not None and starts_with_bos(model.tokenizer)
        self.lead = torch.tensor([[model.tokenizer.bos_token_id]] if lead else [[]], dtype=torch.long)

    def propose(
        self, tokens: Int[Tensor, "unit pos"], top: int, n: int, generator: torch.Generator
    ) -> Int[Tensor, "unit candidate pos"]:
        """`n` copies of each prompt with one token swapped: a random position, one of its `top` best swaps."""
        gradient = torch.cat([self._gradient(*part) for part in self._parts(tokens)])
        gain = gradient @ self.model.W_E[self.allowed.to(gradient.device)].float().T
        choices = self.allowed[gain.topk(top, dim=-1).indices.cpu()]
        n_units, length = tokens.shape
        position = torch.randint(length, (n_units, n), generator=generator)
        place = torch.randint(top, (n_units, n), generator=generator)
        new = choices[torch.arange(n_units)[:, None], position, place]
        return tokens[:, None].repeat(1, n, 1).scatter(2, position[..., None], new[..., None])

    def draw(self, length: int, generator: torch.Generator) -> Int[Tensor, "row pos"]:
        """Of `DRAWN` random prompts, for each unit the `BEAMS` that drive it furthest."""
        drawn = self.allowed[torch.randint(len(self.allowed), (DRAWN, length), generator=generator)]
        ends = torch.cat([self._run(rows, fluent=False)[self.site].flatten(2)[:, -1] for rows in drawn.split(ROWS)])
        furthest = (self.sign * ends[:, self.units[::BEAMS].to(ends.device)]).topk(BEAMS, dim=0).indices
        return drawn[furthest.T.flatten().cpu()]

    def score(self, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, " row"]:
        """The objective of each prompt; the rows are shared evenly among the units, in their order."""
        activation, loss = self.measure(tokens, fluent=self.fluency != 0)
        return activation - self.fluency * loss

    @torch.no_grad()
    def measure(
        self, tokens: Int[Tensor, "row pos"], fluent: bool
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """Signed activation of the row's unit at the last token, and the loss of the prompt; 0 if not `fluent`."""
        parts = [self._measure(self._run(rows, fluent), units) for rows, units in self._parts(tokens)]
        return tuple(torch.cat(column).cpu() for column in zip(*parts, strict=True))

    def _parts(self, tokens: Int[Tensor, "row pos"]):
        units = self.units.repeat_interleave(len(tokens) // len(self.units))
        return zip(tokens.split(ROWS), units.split(ROWS), strict=True)

    def _run(self, tokens: Int[Tensor, "row pos"], fluent: bool, grad: bool = False) -> Run:
        led = torch.cat([self.lead.expand(len(tokens), -1), tokens], 1)
        stop = None if fluent else self.site
        return self.model.run(led, capture=["hook_embed", self.site], grad=grad, stop_after=stop)

    def _measure(self, run: Run, units: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        values = run[self.site].flatten(2)[:, -1].float()
        activation = self.sign * values.gather(1, units.to(values.device)[:, None])[:, 0]
        if run.logits is None or run.tokens.shape[1] < 2:
            return activation, torch.zeros_like(activation)
        loss = torch.nn.functional.cross_entropy(
            run.logits[:, :-1].float().transpose(1, 2), run.tokens[:, 1:], reduction="none"
        )
        return activation, loss.mean(1)

    def _gradient(self, tokens: Int[Tensor, "row pos"], units: Int[Tensor, " row"]) -> Float[Tensor, "row pos d_model"]:
        run = self._run(tokens, fluent=self.fluency != 0, grad=True)
        activation, loss = self._measure(run, units)
        total = (activation - self.fluency * loss).sum()
        return torch.autograd.grad(total, run["hook_embed"])[0][:, self.lead.shape[1] :].float()
