"""An experiment: a model, prompt pairs, a metric and an ablation; its clean and ablated runs, made once.

Everything that scores edges, finds circuits or proves them takes an experiment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.ablations import RESAMPLE, Ablation
from circuits.choice import Choice
from circuits.graph import Graph
from circuits.layout import Layout, Trace, take_apart
from circuits.runs import Gates, run_circuits
from workbench.errors import PromptError, SettingError
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

DIFFERENCES = 2**28
"""Bytes, roughly, that circuit runs may take at a time; it sets how many prompts and circuits go together."""
KEPT = 2**31
"""Bytes of runs that are kept; if they come to more, they are made again each time."""
Some = TypeVar("Some", list[float], Tensor)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some of the pairs, all of one length, and their runs."""

    layout: Layout
    pairs: PromptPairs
    clean: Trace
    ablated: Trace
    """All edges ablated: what the nodes write then, and what every stage reads."""
    metric: Metric

    def values(self, logits: Float[Tensor, "... example d_vocab"]) -> Float[Tensor, "... example"]:
        """The metric of each example."""
        return self.metric(logits, self.pairs, self.clean.logits)


def _together(groups: Sequence[PromptPairs]) -> tuple[PromptPairs, ...]:
    """Groups of one length are joined, if answers are chosen from the same tokens in them."""
    alike: dict[tuple, list[PromptPairs]] = {}
    for group in groups:
        if len(group):
            choices = None if group.choices is None else tuple(group.choices.tolist())
            alike.setdefault((group.clean.shape[1], choices), []).append(group)
    return tuple(some[0] if len(some) == 1 else _joined(some) for some in alike.values())


def _joined(groups: Sequence[PromptPairs]) -> PromptPairs:
    """One group of several. A position keeps its name if it has it in all of them, and a pattern likewise."""
    first = groups[0]
    columns = ("clean", "corrupted", "answers", "distractors", *([] if first.right is None else ["right"]))
    names = set.intersection(*(set(group.positions.items()) for group in groups))
    return replace(
        first,
        name=", ".join(dict.fromkeys(group.name for group in groups)),
        pattern=first.pattern if all(group.pattern == first.pattern for group in groups) else "",
        positions={name: at for name, at in first.positions.items() if (name, at) in names},
        **{column: torch.cat([getattr(group, column) for group in groups]) for column in columns},
    )


class Experiment:
    """Pairs of one length, or groups of several lengths (the patterns of a task), of which all examples count alike.

    Groups of one length are run together: `groups` holds the pairs in the order in which results list examples.
    `model` may be a `Layout` of one's own making, for what is not a transformer.
    `units`: by layer, neurons or latents of the MLPs that are nodes of their own. `batch_size`: prompts that are run
    together; by default as many as keep memory within bounds. No result depends on it. Raises `ModelError` for a model
    that cannot be taken apart, `PromptError` for no pairs, `SettingError` for units that are not there.
    """

    def __init__(
        self,
        model: HookedModel | Layout,
        pairs: PromptPairs | Sequence[PromptPairs],
        metric: Metric = LOGIT_DIFFERENCE,
        ablation: Ablation = RESAMPLE,
        *,
        units: Mapping[int, Choice] | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.groups = _together([pairs] if isinstance(pairs, PromptPairs) else pairs)
        if not len(self):
            raise PromptError("there are no prompt pairs to make an experiment of")
        if batch_size is not None and batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; it must be at least 1")
        self.metric, self.ablation, self.batch_size = metric, ablation, batch_size
        of_length = {group.clean.shape[1]: group.clean for group in self.groups}
        self._layouts = {
            length: model if isinstance(model, Layout) else take_apart(model, clean, units)
            for length, clean in of_length.items()
        }
        layout = next(iter(self._layouts.values()))
        self.graph: Graph = layout.graph
        self.name: str = layout.name
        self._embedded = layout.embed(self.groups[0].clean[:1])
        n_tokens = sum(group.clean.numel() for group in self.groups)
        self._kept: dict[int, Batch] | None = {} if 3 * n_tokens * self._width(len(self.graph.spans)) < KEPT else None

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __repr__(self) -> str:
        name = f"{len(self)} pairs of {self.task!r}"
        return f"Experiment({self.name}, {name}, {self.metric.name}, {self.ablation.name})"

    @property
    def task(self) -> str:
        """The name of the pairs."""
        return ", ".join(dict.fromkeys(group.name for group in self.groups))

    @property
    def length(self) -> int:
        """How many tokens the prompts have. Raises `SettingError` if they are of several lengths."""
        if len(self._layouts) > 1:
            lengths = ", ".join(map(str, sorted(self._layouts)))
            raise SettingError(f"positions mean the same only in prompts of one length; these have {lengths} tokens")
        return next(iter(self._layouts))

    @property
    def facts(self) -> dict[str, Any]:
        """What scores and circuits note about the experiment that they come from, as JSON values."""
        return {
            "model": self.name,
            "task": self.task,
            "metric": self.metric.name,
            "ablation": self.ablation.name,
            "examples": len(self),
            "clean": float(self.clean.mean()),
            "ablated": float(self.ablated.mean()),
        }

    def _width(self, n_streams: int) -> int:
        """Bytes of so many streams at one position."""
        return n_streams * self._embedded.shape[-1] * self._embedded.element_size()

    @property
    def device(self) -> torch.device:
        return self._embedded.device

    @property
    def batches(self) -> Iterator[Batch]:
        """The pairs in turn, with their runs."""
        number = 0
        for group in self.groups:
            fits = max(1, DIFFERENCES // (group.clean.shape[1] * self._width(len(self.graph.sources))))
            size = self.batch_size or fits
            for start in range(0, len(group), size):
                yield self._batch(number, group[start : start + size])
                number += 1

    def together(self, batch: Batch, runs: Some, *, known: int = 1) -> Iterator[Some]:
        """Some runs of a batch at a time, as many as keep memory within bounds.

        Each holds what its sources write, but for the first `known`, and what the destinations of a stage read.
        """
        streams = len(self.graph.sources) - known + max(len(span.destinations) for span in self.graph.spans)
        fits = max(1, DIFFERENCES // (batch.pairs.clean.numel() * self._width(streams)))
        for start in range(0, len(runs), fits):
            yield runs[start : start + fits]

    @torch.no_grad()
    def _batch(self, number: int, pairs: PromptPairs) -> Batch:
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        layout = self._layouts[pairs.clean.shape[1]]
        clean = layout.run(layout.embed(pairs.clean))
        corrupted = layout.run(layout.embed(pairs.corrupted)) if self.ablation.states is None else None
        batch = Batch(layout, pairs, clean, self.ablation.apply(layout, clean, corrupted), self.metric)
        if self._kept is not None:
            self._kept[number] = batch
        return batch

    @cached_property
    def clean(self) -> Float[Tensor, " example"]:
        """The metric with every edge in place."""
        return torch.cat([batch.values(batch.clean.logits) for batch in self.batches]).cpu()

    @cached_property
    def ablated(self) -> Float[Tensor, " example"]:
        """The metric with every edge ablated."""
        return torch.cat(
            [batch.values(batch.ablated.logits.expand(len(batch.pairs), -1)) for batch in self.batches]
        ).cpu()

    def logits(
        self, circuits: Gates, *, known: int = 1
    ) -> Iterator[tuple[Batch, Float[Tensor, "circuit example d_vocab"]]]:
        """Logits at the last position with only the edges of each circuit in place, batch by batch of the pairs.

        `circuits` has a leading axis; gates between 0 and 1 let a share of a difference through. They are run
        together; what is the same in all is computed once. The first `known` sources are clean in all of them (see
        `run_circuits`).
        """
        circuits = circuits.to(self.device)
        if circuits.ndim > 3 and circuits.shape[1] != self.length:
            raise SettingError(f"a circuit of {circuits.shape[1]} positions, for prompts of {self.length}")
        # together, each computes the nodes of all; only a GPU, which is not full with one, gains from circuits unlike
        apart = self.device.type == "cpu" and known == 1 and _unlike(circuits != 0)
        for batch in self.batches:
            with torch.no_grad():
                parts = [
                    run_circuits(batch.layout, batch.clean, batch.ablated, some, known=known)
                    for some in (circuits.split(1) if apart else self.together(batch, circuits, known=known))
                ]
            yield batch, torch.cat(parts)

    def values(self, circuits: Gates, *, known: int = 1) -> Float[Tensor, "circuit example"]:
        """The metric of each example with only the edges of each circuit in place; see `logits`."""
        return torch.cat([batch.values(logits) for batch, logits in self.logits(circuits, known=known)], dim=1).cpu()


def _unlike(circuits: Bool[Tensor, "circuit *pos destination source"]) -> bool:
    """Whether all of them together have more than twice the edges that one has."""
    return bool(circuits.any(0).sum() > 2 * circuits.sum() / len(circuits))
