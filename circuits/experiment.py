"""An experiment: a model, prompt pairs, a metric and an ablation; its clean and ablated runs, made once.

Everything that scores edges, finds circuits or proves them takes an experiment.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import RESAMPLE, Ablation
from circuits.graph import Edges, Graph
from circuits.layout import Layout, Trace, take_apart
from circuits.runs import run_circuits
from workbench.errors import PromptError, SettingError
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

DIFFERENCES = 2**28
"""Bytes that the differences of all nodes may take at a time; it sets how many prompts and circuits go together."""
KEPT = 2**31
"""Bytes of runs that are kept; if they come to more, they are made again each time."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some of the pairs, and their runs."""

    pairs: PromptPairs
    clean: Trace
    ablated: Trace
    """All edges ablated: what the nodes write then, and what every stage reads."""
    metric: Metric

    def values(self, logits: Float[Tensor, "... example d_vocab"]) -> Float[Tensor, "... example"]:
        """The metric of each example."""
        return self.metric(logits, self.pairs, self.clean.logits)


class Experiment:
    """Raises `ModelError` for a model that cannot be taken apart, `PromptError` for no pairs.

    `batch_size`: prompts that are run together; by default as many as keep memory within bounds. No result depends on
    it.
    """

    def __init__(
        self,
        model: HookedModel,
        pairs: PromptPairs,
        metric: Metric = LOGIT_DIFFERENCE,
        ablation: Ablation = RESAMPLE,
        *,
        batch_size: int | None = None,
    ) -> None:
        if not len(pairs):
            raise PromptError(f"{pairs.name} has no prompt pairs")
        if batch_size is not None and batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; it must be at least 1")
        self.model, self.pairs, self.metric, self.ablation = model, pairs, metric, ablation
        self.layout: Layout = take_apart(model, pairs.clean)
        fits = max(1, DIFFERENCES // self._bytes_a_prompt(len(self.graph.sources)))
        self.batch_size = min(batch_size or fits, len(pairs))
        kept = 3 * len(pairs) * self._bytes_a_prompt(len(self.graph.spans))
        self._kept: dict[int, Batch] | None = {} if kept < KEPT else None

    def __repr__(self) -> str:
        name = f"{len(self.pairs)} pairs of {self.pairs.name!r}"
        return f"Experiment({self.model.info.name}, {name}, {self.metric.name}, {self.ablation.name})"

    def _bytes_a_prompt(self, n_streams: int) -> int:
        return n_streams * self.pairs.clean.shape[1] * self.model.info.d_model * self.model.dtype.itemsize

    @property
    def graph(self) -> Graph:
        return self.layout.graph

    @property
    def batches(self) -> Iterator[Batch]:
        """The pairs in turn, with their runs."""
        for start in range(0, len(self.pairs), self.batch_size):
            if self._kept is None:
                yield self._batch(start)
            else:
                if start not in self._kept:
                    self._kept[start] = self._batch(start)
                yield self._kept[start]

    @torch.no_grad()
    def _batch(self, start: int) -> Batch:
        pairs = self.pairs[start : start + self.batch_size]
        clean = self.layout.run(self.layout.embed(pairs.clean))
        corrupted = None
        if self.ablation.name == "resample":
            corrupted = self.layout.run(self.layout.embed(pairs.corrupted))
        return Batch(pairs, clean, self.ablation.apply(self.layout, clean, corrupted), self.metric)

    @cached_property
    def clean(self) -> Float[Tensor, " example"]:
        """The metric with every edge in place."""
        return torch.cat([batch.values(batch.clean.logits) for batch in self.batches]).cpu()

    @cached_property
    def ablated(self) -> Float[Tensor, " example"]:
        """The metric with every edge ablated."""
        return torch.cat([batch.values(self._ablated_logits(batch)) for batch in self.batches]).cpu()

    @staticmethod
    def _ablated_logits(batch: Batch) -> Float[Tensor, "example d_vocab"]:
        return batch.ablated.logits.expand(len(batch.pairs), -1)

    def logits(
        self, circuits: Edges, *, known: int = 1
    ) -> Iterator[tuple[Batch, Float[Tensor, "circuit example d_vocab"]]]:
        """Logits at the last position with only the edges of each circuit in place, batch by batch of the pairs.

        `circuits` has a leading axis. They are run together; what is the same in all is computed once. The first
        `known` sources are clean in all of them (see `run_circuits`).
        """
        together = max(1, DIFFERENCES // (self.batch_size * self._bytes_a_prompt(len(self.graph.sources))))
        circuits = circuits.to(self.model.device)
        for batch in self.batches:
            with torch.no_grad():
                parts = [
                    run_circuits(self.layout, batch.clean, batch.ablated, some, known=known)
                    for some in circuits.split(together)
                ]
            yield batch, torch.cat(parts)

    def values(self, circuits: Edges, *, known: int = 1) -> Float[Tensor, "circuit example"]:
        """The metric of each example with only the edges of each circuit in place; see `logits`."""
        return torch.cat([batch.values(logits) for batch, logits in self.logits(circuits, known=known)], dim=1).cpu()
