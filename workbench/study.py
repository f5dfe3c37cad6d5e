"""What an ablation study runs and measures, and what it puts in place of a part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from workbench import sites as site_names
from workbench.contrast import Pairs, groups
from workbench.corpus import TokenBatch
from workbench.edits import random_cycle
from workbench.errors import SettingError
from workbench.metrics import LOGIT_DIFFERENCE, LOSS, Metric
from workbench.model import HookedModel
from workbench.suffix import BaseRun, base_run
from workbench.sweep import Score, Substitute, cut, rows_at_once

WAYS = {
    "zero": "zeroed",
    "mean": "put at its mean",
    "resample": "taken from another prompt",
    "direction": "rid of a direction",
}


@dataclass(frozen=True, eq=False)
class Trial:
    """Some prompts, run by the whole model, and how runs of them are scored."""

    base: BaseRun
    score: Score
    every: bool
    """Whether the score is of the logits at every position."""
    counted: Bool[Tensor, "example pos"]
    """Which tokens are text, not padding."""

    def __len__(self) -> int:
        return len(self.counted)

    def whole(self) -> Float[Tensor, " example"]:
        """The score of the whole model."""
        if not self.every:
            return self.score(self.base.logits[None])[0].float().cpu()
        last = self.base.resume(self.base.model.info.n_layers - 1, every_position=True)
        return self.score(last.logits[None])[0].float().cpu()


class Study:
    """Prompts, and what takes the place of an ablated part in their runs.

    On prompt pairs, the clean prompts are run and scored by `metric`, by default the logit difference; on contexts of
    a corpus, the score is their mean loss. Raises `PromptError`, `UnknownSite`; `SettingError` for settings that do not
    fit each other.
    """

    def __init__(
        self,
        model: HookedModel,
        on: Pairs | TokenBatch,
        sites: Sequence[str],
        by: Sequence[str] = (),
        *,
        how: str,
        direction: Float[Tensor, " d"] | None = None,
        metric: Metric | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.how, self.direction, self.seed = model, how, direction, seed
        self.sites = site_names.expand(sites, model.sites)
        self.corpus = on if isinstance(on, TokenBatch) else None
        self.pairs = [] if isinstance(on, TokenBatch) else groups(on, by)
        self.metric = LOSS if self.corpus else metric or LOGIT_DIFFERENCE
        self.name = "corpus" if self.corpus else self.pairs[0].name
        self._check(metric)

    def _check(self, metric: Metric | None) -> None:
        if self.how not in WAYS:
            raise SettingError(f"no ablation {self.how!r}; it is {', '.join(map(repr, WAYS))}")
        if (self.how == "direction") != (self.direction is not None):
            raise SettingError("how='direction' needs a direction, and no other ablation takes one")
        if self.direction is not None and not self.direction.any():
            raise SettingError("the direction is a vector of zeros")
        if self.how == "mean" and any(site_names.axes(site).position == 2 for site in self.sites):
            raise SettingError("attention has no mean over tokens; choose how='zero' or 'resample'")
        if self.corpus and metric not in (None, LOSS):
            raise SettingError(f"on a corpus the measure is the loss, not {metric.name}")

    def __len__(self) -> int:
        return len(self.corpus.tokens) if self.corpus else sum(map(len, self.pairs))

    def trials(self) -> Iterator[Trial]:
        """The prompts, in batches that fit the memory."""
        if self.corpus:
            for rows in self._batches(*self.corpus.tokens.shape):
                tokens, text = self.corpus.tokens[rows], self.corpus.mask()[rows]
                yield Trial(base_run(self.model, tokens, self.sites), partial(_losses, tokens, text), True, text)
        for pairs in self.pairs:
            for rows in self._batches(*pairs.clean.shape):
                batch = pairs[rows]
                base = base_run(self.model, batch.clean, self.sites)
                score = partial(self.metric, pairs=batch, clean=base.logits)
                yield Trial(base, score, False, torch.ones_like(batch.clean, dtype=torch.bool))

    def _batches(self, n_prompts: int, n_pos: int) -> list[slice]:
        """Rows of the batches, which are as even as can be, so that none is left with too few to resample from."""
        n_batches = -(-n_prompts // rows_at_once(self.model.info, n_pos, whole=self.corpus is not None))
        ends = [round(n_prompts * part / n_batches) for part in range(n_batches + 1)]
        return [slice(*pair) for pair in pairwise(ends)]

    @cached_property
    def means(self) -> dict[str, Tensor]:
        """The mean activation at every site, over all tokens."""
        sums: dict[str, Tensor] = {}
        n_tokens = 0
        for trial in self.trials():
            n_tokens += int(trial.counted.sum())
            for site in self.sites:
                rows = trial.base[site][trial.counted.to(self.model.device)]
                sums[site] = sums.get(site, 0) + rows.double().sum(0)
        return {site: total / n_tokens for site, total in sums.items()}

    def substitute(self, trial: Trial) -> Substitute:
        """What takes the place of an ablated part of a trial."""
        if self.how == "zero":
            return lambda site, part, positions: torch.zeros_like(part)
        if self.how == "mean":
            means = self.means  # found here, not in the midst of a run
            return lambda site, part, positions: means[site].to(part)
        if self.how == "direction":
            return self._without_direction
        if len(trial) < 2:
            raise SettingError("resampling needs at least two prompts of each length")
        others = random_cycle(len(trial), self.seed)
        return lambda site, part, positions: cut(site, trial.base[site][others], positions)

    def _without_direction(self, site: str, part: Tensor, positions: slice) -> Tensor:
        if part.shape[-1] != len(self.direction):
            raise SettingError(f"the direction has {len(self.direction)} entries; {site} has {part.shape[-1]}")
        unit = (self.direction / self.direction.norm()).to(part)
        return part - (part @ unit)[..., None] * unit


def _losses(
    tokens: Int[Tensor, "example pos"], text: Bool[Tensor, "example pos"], logits: Float[Tensor, "copy example pos v"]
) -> Float[Tensor, "copy example"]:
    """Mean loss of each context, in nats a token; padding is not predicted."""
    targets, wanted = tokens[:, 1:].to(logits.device), text[:, 1:].to(logits.device)
    flat = logits[:, :, :-1].flatten(0, 2).float()
    loss = cross_entropy(flat, targets.expand(len(logits), -1, -1).flatten(), reduction="none")
    return (loss.unflatten(0, (len(logits), *targets.shape)) * wanted).sum(-1) / wanted.sum(-1).clamp_min(1)
