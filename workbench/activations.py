"""Activations of a model over a corpus: harvested at several sites in one pass, and shuffled for training."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import sites as site_names
from workbench.buffer import ShufflingBuffer
from workbench.cache import ActivationCache, Contents
from workbench.corpus import START, Corpus, Position, TokenBatch
from workbench.errors import CorpusError, SettingError
from workbench.fused import fused
from workbench.model import HookedModel

RowSource = Callable[[Position], Generator[tuple[Float[Tensor, "row d"], Position], None, Any]]
"""Gives rows from a place in the corpus on, without end, each batch with the place that follows it."""


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
    """Run the model over a corpus, no deeper than needed, and yield activations at `sites` (`*` matches layers).

    Ends with the batch that completes `n_tokens` tokens (padding does not count), or with the corpus; with `repeat`,
    the corpus begins again, in another order, as often as needed. `position` is where a batch of the corpus ended.

    Raises `UnknownSite`; `SettingError` for a site without one activation for each position; `CorpusError` if the
    corpus does not fit the model.
    """
    sites = site_names.expand(sites, model.sites)
    for site in sites:
        if site_names.axes(site).position != 1:
            raise SettingError(f"{site} has no activation of its own for each position; harvest other sites")
    if corpus.context > model.info.n_ctx:
        raise CorpusError(f"contexts of {corpus.context} tokens are too long for a model that reads {model.info.n_ctx}")
    batches = corpus.batches(batch_size, position, repeat)
    return _harvest(model, batches, sites, n_tokens)


def _harvest(
    model: HookedModel, batches: Iterator[TokenBatch], sites: tuple[str, ...], n_tokens: int | None
) -> Iterator[ActivationBatch]:
    deepest, harvested, quickly = max(sites, key=model.sites.index), 0, None
    for batch in batches:
        _check_vocabulary(batch, model)
        quickly = quickly or fused(model, sites, batch.tokens[:1], stop_after=deepest)
        with quickly():
            run = model.run(batch.tokens, capture=sites, stop_after=deepest)
        yield ActivationBatch(**vars(batch), activations={site: run[site].flatten(2) for site in sites})
        harvested += int(batch.mask().sum())
        if n_tokens is not None and harvested >= n_tokens:
            return


def _check_vocabulary(batch: TokenBatch, model: HookedModel) -> None:
    highest, d_vocab = int(batch.tokens.max()), model.info.d_vocab
    if highest >= d_vocab:
        raise CorpusError(f"the corpus has the token id {highest}, but the model knows only those below {d_vocab}")


class ActivationStream:
    """Shuffled rows of activations, a step at a time: an iterator that can be saved and go on exactly where it was.

    `rows_from` gives at most `batch_rows` at once; `n_rows` are served in all (whole steps only). `widths` are those of
    the sites that lie side by side in a row.
    """

    def __init__(
        self,
        rows_from: RowSource,
        buffer: ShufflingBuffer,
        *,
        rows_per_step: int,
        batch_rows: int,
        n_rows: int,
        widths: dict[str, int],
    ):
        if buffer.room < rows_per_step + batch_rows:
            raise SettingError(
                f"a buffer of {buffer.room} rows is too small: "
                f"it must hold a step ({rows_per_step}) and a batch ({batch_rows}) at once"
            )
        self._rows_from, self._buffer, self._widths = rows_from, buffer, widths
        self._rows_per_step, self._batch_rows, self._n_rows = rows_per_step, batch_rows, n_rows
        self._refill_below = max(buffer.room // 2, rows_per_step)
        self._begin(START, fed=0, served=0)

    def _begin(self, position: Position, fed: int, served: int) -> None:
        self._position, self._fed, self._served = position, fed, served
        self._source = self._rows_from(position)

    def columns(self, site: str) -> slice:
        """Where in a row the activation at a site lies."""
        before = list(self._widths)[: list(self._widths).index(site)]
        start = sum(self._widths[name] for name in before)
        return slice(start, start + self._widths[site])

    def __iter__(self) -> "ActivationStream":
        return self

    def __next__(self) -> Float[Tensor, "row d"]:
        if self._served + self._rows_per_step > self._n_rows:
            raise StopIteration
        if len(self._buffer) < self._refill_below:
            self._refill()
        self._served += self._rows_per_step
        return self._buffer.draw(self._rows_per_step)

    def peek(self, n: int) -> Float[Tensor, "row d"]:
        """`n` rows from the front of the stream, or what the buffer can take; they will be served all the same."""
        self._refill(until=n)
        return self._buffer.peek(n)

    def _refill(self, until: int | None = None) -> None:
        while self._fed < self._n_rows and self._buffer.room >= self._batch_rows:
            if until is not None and len(self._buffer) >= until:
                return
            rows, self._position = next(self._source)
            self._buffer.feed(rows)
            self._fed += len(rows)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, as tensors to save; it holds all rows in the buffer."""
        progress = torch.tensor([*self._position, self._fed, self._served])
        return {**self._buffer.state(), "progress": progress}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a stream made with the same arguments."""
        self._buffer.restore(state)
        *position, fed, served = state["progress"].tolist()
        self.close()
        self._begin(Position(*position), fed, served)

    def close(self) -> None:
        """Stop harvesting; a cache keeps what was harvested last."""
        self._source.close()


def shuffled_activations(
    model: HookedModel,
    corpus: Corpus,
    sites: str | Sequence[str],
    *,
    rows_per_step: int,
    buffer_rows: int,
    n_tokens: int,
    seed: int,
    skip_special: bool = True,
    batch_size: int = 32,
    cache: str | Path | None = None,
    relay: Callable[[RowSource, int, torch.dtype], RowSource] | None = None,
) -> ActivationStream:
    """Shuffled activations at some sites, `[rows_per_step, d]` at a time, `n_tokens` of them in all (whole steps only).

    The activations of one token at several sites lie side by side (`ActivationStream.columns`), so that one pass over
    the model and one shuffling serve them all. The corpus is repeated as often as needed. Activations wait in a buffer
    of `buffer_rows`, refilled when half empty by running the model on `batch_size` contexts at a time. `skip_special`
    leaves out the tokenizer's BOS, EOS and padding, whose activations are far larger than others and would govern the
    training of an SAE. With `cache`, what is harvested is kept in that directory or at that URL, and what is there is
    not harvested again; the stream is the same. Of several processes that are to have the same stream, one may harvest
    and pass its rows on: `relay` makes each one's source, of rows of a width and type, one that all share.

    Raises `SettingError` if the buffer cannot hold a step and a batch at once, or if the cache is of something else;
    and what `harvest` raises.
    """
    sites = site_names.expand(sites, model.sites)
    skip = special_ids(model.tokenizer) if skip_special else ()
    run = model.run(torch.zeros(1, 1, dtype=torch.int64), capture=sites, stop_after=max(sites, key=model.sites.index))
    sample = {site: run[site].flatten(2) for site in sites}
    widths = {site: activation.shape[-1] for site, activation in sample.items()}
    first = sample[sites[0]]

    def harvested(position: Position, sites: tuple[str, ...] = sites) -> Generator[tuple[Tensor, Position], None, None]:
        for batch in harvest(model, corpus, sites, batch_size=batch_size, position=position, repeat=True):
            rows = [batch.rows(site, skip) for site in sites]
            yield rows[0] if len(rows) == 1 else torch.cat(rows, dim=1), batch.position

    rows_from = harvested
    if cache is not None:
        contents = Contents(
            model.fingerprint, corpus.fingerprint, corpus.context, batch_size, skip, str(first.dtype), widths
        )
        rows_from = ActivationCache(cache, contents, harvested).rows_from
    if relay is not None:
        rows_from = relay(rows_from, sum(widths.values()), first.dtype)
    return ActivationStream(
        rows_from,
        ShufflingBuffer(buffer_rows, sum(widths.values()), seed=seed, dtype=first.dtype, device=first.device),
        rows_per_step=rows_per_step,
        batch_rows=batch_size * corpus.context,
        n_rows=n_tokens,
        widths=widths,
    )


def special_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids of a tokenizer's BOS, EOS and padding tokens, as far as it has them."""
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
    return tuple(sorted({i for i in ids if i is not None}))
