"""The two runs of prompt pairs that patching goes between."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.errors import PromptError, SettingError
from workbench.metrics import Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs
from workbench.suffix import BaseRun, base_run
from workbench.sweep import POSITIONAL, rows_at_once

DIRECTIONS = {"denoise": "clean into corrupted", "noise": "corrupted into clean"}
Pairs = PromptPairs | Sequence[PromptPairs]


@dataclass(frozen=True, eq=False)
class Contrast:
    """Some prompt pairs of one length, with the run patched into and the run patched from."""

    pairs: PromptPairs
    into: BaseRun
    source: BaseRun
    clean: Float[Tensor, "example d_vocab"]
    """Logits of the clean prompts."""
    metric: Metric

    def __len__(self) -> int:
        return len(self.pairs)

    def score(self, logits: Float[Tensor, "... example d_vocab"]) -> Float[Tensor, "... example"]:
        return self.metric(logits, self.pairs, self.clean)

    def ends(self) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
        """The metric of the run patched into and of the run patched from."""
        into, source = (self.score(run.logits).float().cpu() for run in (self.into, self.source))
        return into, source


def groups(pairs: Pairs, by: Sequence[str] = ()) -> list[PromptPairs]:
    """Pairs as a list of `PromptPairs`. Raises `PromptError` if positions are told apart and lengths differ."""
    listed = [pairs] if isinstance(pairs, PromptPairs) else list(pairs)
    if not sum(map(len, listed)):
        raise PromptError("there are no prompt pairs")
    lengths = sorted({group.clean.shape[1] for group in listed})
    if len(lengths) > 1 and (positional := POSITIONAL & set(by)):
        raise PromptError(
            f"prompts have {lengths[0]} to {lengths[-1]} tokens, so a {min(positional)} is not the same in all of "
            "them; give pairs of one length"
        )
    return listed


def contrasts(
    model: HookedModel,
    pairs: Sequence[PromptPairs],
    sites: Sequence[str],
    metric: Metric,
    direction: str,
    graphs: bool = False,
) -> Iterator[Contrast]:
    """The contrast of every batch of pairs, both runs with `sites` captured. Raises `SettingError`.

    Batches are smaller for `graphs`, to which every activation of a run is kept.
    """
    if direction not in DIRECTIONS:
        raise SettingError(f"no direction {direction!r}; it is {' or '.join(map(repr, DIRECTIONS))}")
    for group in pairs:
        size = rows_at_once(model.info, group.clean.shape[1], whole=graphs)
        size = max(1, size // model.info.n_layers) if graphs else size
        for begin in range(0, len(group), size):
            batch = group[begin : begin + size]
            clean, corrupted = (base_run(model, tokens, sites) for tokens in (batch.clean, batch.corrupted))
            into, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
            yield Contrast(batch, into, source, clean.logits, metric)
