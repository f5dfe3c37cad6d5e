"""The harvest, divided: one process reads the corpus or the cache, and all of them run the model on what it reads.

The process that leads sends its team messages. RUN: here are contexts, run your share of them, and give back the
activations. ROWS: here are rows for the buffer, from the model or from the cache. So every process feeds the same rows
to its buffer as a process alone would, and nobody but the leader meets a file.
"""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.activations import RowSource
from workbench.corpus import Position
from workbench.fused import fused
from workbench.model import HookedModel, Run

if TYPE_CHECKING:
    from saes.parallel.processes import Processes

RUN, ROWS = 0, 1


class SharedModel(HookedModel):
    """A model of which every process has a copy; what the leader runs, all run a share of.

    A batch of fewer contexts than there are processes the leader runs by itself.
    """

    def __init__(self, model: HookedModel, team: "Processes") -> None:
        self.__dict__.update(model.__dict__)
        self._team = team

    def run(self, inputs: Any, *, capture: Sequence[str] = (), stop_after: str | None = None, **options: Any) -> Run:
        """As that of any model; activations are gathered from all processes."""
        if not isinstance(inputs, Tensor) or len(inputs) < self._team.size:
            return super().run(inputs, capture=capture, stop_after=stop_after, **options)
        sites = [self.sites.index(site) for site in capture]
        self._team.same(torch.tensor([RUN, *inputs.shape, len(sites), 0]))
        self._team.same(torch.cat([inputs.flatten(), torch.tensor(sites)]))
        return Run(inputs, None, self.run_share(inputs, capture, stop_after))

    def run_share(
        self, tokens: Int[Tensor, "batch pos"], capture: Sequence[str], stop_after: str | None
    ) -> dict[str, Tensor]:
        """Run this process's part of a batch. Where it leads, the activations of the whole; elsewhere none."""
        team, n = self._team, len(tokens)
        each = -(-n // team.size)
        places = torch.arange(team.rank * each, (team.rank + 1) * each).clamp_max(n - 1)
        run = super().run(tokens[places], capture=capture, stop_after=stop_after)
        parts = {site: team.to_leader(run[site]) for site in run.sites}
        return {site: part.flatten(0, 1)[:n] for site, part in parts.items() if part is not None}


class Relay:
    """What makes the leader's source of rows that of all processes."""

    def __init__(self, model: SharedModel, team: "Processes") -> None:
        self._model, self._team = model, team

    def __call__(self, rows_from: RowSource, width: int, dtype: torch.dtype) -> RowSource:
        """Rows of `width` values from every process's `rows_from`, of which the leader's alone is asked for any."""
        if self._team.leads:
            return lambda position: self._send(rows_from(position))
        return lambda position: self._receive(width, dtype)

    def _send(self, source: Generator[tuple[Tensor, Position], None, Any]) -> Generator[tuple[Tensor, Position]]:
        try:
            for rows, position in source:
                self._team.same(torch.tensor([ROWS, len(rows), *position]))
                yield self._team.same(rows), position
        finally:
            source.close()

    def _receive(self, width: int, dtype: torch.dtype) -> Generator[tuple[Float[Tensor, "row d"], Position]]:
        context = None
        while True:
            kind, *figures = self._team.same(torch.empty(5, dtype=torch.int64)).tolist()
            if kind == ROWS:
                n_rows, *position = figures
                empty = torch.empty(n_rows, width, dtype=dtype, device=self._team.device)
                yield self._team.same(empty), Position(*position)
                continue
            n_contexts, length, n_sites, _ = figures
            message = self._team.same(torch.empty(n_contexts * length + n_sites, dtype=torch.int64))
            tokens = message[: n_contexts * length].view(n_contexts, length)
            sites = [self._model.sites[i] for i in message[n_contexts * length :].tolist()]
            deepest = max(sites, key=self._model.sites.index)
            context = context or fused(self._model, sites, tokens[:1], stop_after=deepest)
            with context():
                self._model.run_share(tokens, sites, deepest)
