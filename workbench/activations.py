"""Activations of a model over a corpus: harvested at several sites in one pass, and shuffled for training."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import sites as site_names
from workbench.buffer import ShufflingBuffer
from workbench.corpus import START, Corpus, Position, TokenBatch
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel


@dataclass(frozen=True, kw_only=True)
class ActivationBatch(TokenBatch):
    """Contexts and what the model makes of them; activations are on the model's device."""

    activations: dict[str, Float[Tensor, "batch pos _"]]
    """By site. The heads of a site that has them are laid side by side."""

    def rows(self, site: str, skip: tuple[int, ...] = ()) -> Float[Tensor, "row d"]:
        """The activations at a site as rows, without padding and without tokens whose id is in `skip`."""
        activation = self.activations[site]
        return activation[self.mask(skip).to(activation.device)]


def harvest(
    model: HookedModel,
    corpus: Corpus,
    sites: Sequence[str],
    *,
    batch_size: int = 32,
    n_tokens: int | None = None,
    position: Position = START,
    repeat: bool = False,
) -> Iterator[ActivationBatch]:
    """Run the model over a corpus, no deeper than needed, and yield the activations at `sites` (`*` matches layers).

    Ends with the batch that completes `n_tokens` tokens (padding does not count), or with the corpus; with `repeat`, the
    corpus begins again, in another order, until `n_tokens` are harvested.

    Raises `UnknownSite`; `SettingError` for a site without one activation per position, or where nothing ends the harvest;
    `CorpusError` if the corpus does not fit the model.
    """
    sites = site_names.expand(sites, model.sites)
    for site in sites:
        if site_names.axes(site).position != 1:
            raise SettingError(f"{site} has no activation of its own for each position; harvest other sites")
    if n_tokens is None and (repeat or corpus.endless):
        raise SettingError(f"the corpus {corpus.name} does not end here: say how many tokens to harvest")
    if corpus.context > (model.info.n_ctx or corpus.context):
        raise CorpusError(f"contexts of {corpus.context} tokens are too long for a model that reads {model.info.n_ctx}")
    batches = corpus.batches(batch_size, position, repeat)
    return _harvest(model, batches, sites, n_tokens)


def _harvest(
    model: HookedModel, batches: Iterator[TokenBatch], sites: tuple[str, ...], n_tokens: int | None
) -> Iterator[ActivationBatch]:
    stop, harvested = _last(sites), 0
    for batch in batches:
        if (highest := int(batch.tokens.max())) >= model.info.d_vocab:
            raise CorpusError(
                f"the corpus has the token id {highest}, but the model knows only {model.info.d_vocab} tokens"
            )
        run = model.run(batch.tokens, capture=sites, stop_after=stop)
        yield ActivationBatch(**vars(batch), activations={site: run[site].flatten(2) for site in sites})
        harvested += int(batch.mask().sum())
        if n_tokens is not None and harvested >= n_tokens:
            return


def _last(sites: Sequence[str]) -> str | None:
    """A site by which all of `sites` have been computed; None if that takes the whole model."""
    if any(site.startswith("ln_final") for site in sites):
        return None
    layers = [site_names.layer_of(site) for site in sites]
    depth = max((layer for layer in layers if layer is not None), default=None)
    deepest = [site for site, layer in zip(sites, layers, strict=True) if layer == depth]
    if len(deepest) == 1:
        return deepest[0]
    return "blocks.0.hook_resid_pre" if depth is None else f"blocks.{depth}.hook_resid_post"


class ActivationStream:
    """Shuffled rows of activations at one site, without end in sight of its reader; made by `shuffled_activations`."""

    def __init__(
        self,
        model: HookedModel,
        corpus: Corpus,
        site: str,
        *,
        rows_per_step: int,
        buffer_rows: int,
        n_tokens: int,
        seed: int,
        skip: tuple[int, ...],
        batch_size: int,
    ):
        (self._site,) = site_names.expand(site, model.sites)
        self._model, self._corpus = model, corpus
        self._rows_per_step, self._buffer_rows, self._n_tokens = rows_per_step, buffer_rows, n_tokens
        self._skip, self._batch_size = skip, batch_size
        sample = model.run(torch.zeros(1, 1, dtype=torch.int64), capture=[site], stop_after=site)[site].flatten(2)
        width, dtype, device = sample.shape[-1], sample.dtype, sample.device
        self._buffer = ShufflingBuffer(buffer_rows, width, seed=seed, dtype=dtype, device=device)
        self._begin(START, fed=0, served=0)

    def _begin(self, position: Position, fed: int, served: int) -> None:
        self._position, self._fed, self._served = position, fed, served
        self._batches = harvest(
            self._model,
            self._corpus,
            [self._site],
            batch_size=self._batch_size,
            n_tokens=sys.maxsize,
            position=position,
            repeat=True,
        )

    def __iter__(self) -> "ActivationStream":
        return self

    def __next__(self) -> Float[Tensor, "row d"]:
        if self._served + self._rows_per_step > self._n_tokens:
            raise StopIteration
        if len(self._buffer) < max(self._buffer_rows // 2, self._rows_per_step):
            self._refill()
        self._served += self._rows_per_step
        return self._buffer.draw(self._rows_per_step)

    def _refill(self) -> None:
        while self._fed < self._n_tokens and self._buffer.room >= self._batch_size * self._corpus.context:
            batch = next(self._batches)
            rows = batch.rows(self._site, self._skip)
            self._buffer.feed(rows)
            self._fed += len(rows)
            self._position = batch.position

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on exactly from here, as tensors to save; it holds all rows in the buffer."""
        progress = torch.tensor([*self._position, self._fed, self._served])
        return {**self._buffer.state(), "progress": progress}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a stream made with the same arguments."""
        self._buffer.restore(state)
        *position, fed, served = state["progress"].tolist()
        self._begin(Position(*position), fed, served)


def shuffled_activations(
    model: HookedModel,
    corpus: Corpus,
    site: str,
    *,
    rows_per_step: int,
    buffer_rows: int,
    n_tokens: int,
    seed: int,
    skip_special: bool = True,
    batch_size: int = 32,
) -> ActivationStream:
    """Shuffled activations at a site, `[rows_per_step, d]` at a time, `n_tokens` in all (whole steps only).

    The corpus is repeated as often as needed. Activations wait in a buffer of `buffer_rows`, refilled when half empty by
    running the model on `batch_size` contexts at a time. `skip_special` leaves out the tokenizer's BOS, EOS and padding,
    whose activations are far larger than others and would govern the training of an SAE.

    Raises `SettingError` if the buffer is smaller than a step and a batch together, and what `harvest` raises.
    """
    batch_rows = batch_size * corpus.context
    if buffer_rows < rows_per_step + batch_rows:
        raise SettingError(
            f"a buffer of {buffer_rows} rows is too small: it must hold a step ({rows_per_step}) and a batch ({batch_rows})"
        )
    return ActivationStream(
        model,
        corpus,
        site,
        rows_per_step=rows_per_step,
        buffer_rows=buffer_rows,
        n_tokens=n_tokens,
        seed=seed,
        skip=special_ids(model.tokenizer) if skip_special else (),
        batch_size=batch_size,
    )


def special_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids of a tokenizer's BOS, EOS and padding tokens, as far as it has them."""
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
    return tuple(sorted({i for i in ids if i is not None}))
