"""The pass over a corpus: what fires, gathered in parts that are put aside on disk as they grow."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from saes.index.accumulator import IndexAccumulator
from saes.index.firings import firings
from saes.index.shelf import Job, Progress, Shelf
from saes.sae import SAE
from workbench.activations import harvest, special_ids
from workbench.corpus import START, Corpus, Position, TokenBatch
from workbench.errors import SettingError
from workbench.model import HookedModel

MEMORY = 2**31
SAVE_SECONDS = 300.0
"""How much work a kill may cost."""


class Share:
    """Every n-th batch of a corpus, as a corpus, up to a number of text tokens that all shares together read."""

    def __init__(self, corpus: Corpus, skip: tuple[int, ...], job: Job, share: int, progress: Progress):
        self.name, self.context, self.concepts = corpus.name, corpus.context, corpus.concepts
        self.progress = progress
        self._corpus, self._skip, self._job, self._share = corpus, skip, job, share

    @property
    def fingerprint(self) -> str:
        return self._corpus.fingerprint

    def batches(self, batch_size: int, position: Position = START, repeat: bool = False) -> Iterator[TokenBatch]:
        """What is left of the share. After each batch, `progress` says how far the corpus is read."""
        if self.progress.done:
            return
        for batch in self._corpus.batches(batch_size, self.progress.position, repeat):
            number = self.progress.n_batches
            n_tokens = self.progress.n_tokens + int(batch.mask(self._skip).sum())
            done = n_tokens >= self._job.n_tokens
            self.progress = Progress(batch.position, number + 1, n_tokens, done)
            if number % self._job.shares == self._share - 1:
                yield batch
            if done:
                return


def start_job(
    sae: SAE, model: HookedModel, corpus: Corpus, *, n_tokens: int, batch_size: int, seed: int, shares: int = 1
) -> Job:
    """Raises `SettingError` if the SAE does not fit the model or nothing is to be read."""
    if n_tokens < 1:
        raise SettingError(f"tokens must be at least 1, not {n_tokens}")
    if not sae.route.reads:
        raise SettingError("the SAE does not say at which site of the model it belongs")
    fingerprints = fingerprint(sae), model.fingerprint, corpus.fingerprint
    return Job(*fingerprints, sae.site, n_tokens, batch_size, seed, shares)


def gather(
    sae: SAE,
    model: HookedModel,
    corpus: Corpus,
    job: Job,
    *,
    out: Path | str,
    share: int = 1,
    memory: int = MEMORY,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Read one share of the corpus, from where it was left, and leave its parts in the SAE's directory `out`.

    Raises `SettingError` if the SAE does not fit the model's activations, and `OSError`.
    """
    shelf = Shelf(Path(out))
    progress, part = shelf.resume(job, share)
    if progress.done:
        return
    skip = special_ids(model.tokenizer)
    source = Share(corpus, skip, job, share, progress)
    found, saved = IndexAccumulator(sae.cfg.d_sae, len(corpus.concepts), job.seed), time.monotonic()
    for batch in harvest(model, source, sae.route.reads, batch_size=job.batch_size):
        found.update(firings(sae, batch, batch.mask(skip)))
        if on_progress:
            on_progress(min(source.progress.n_tokens, job.n_tokens))
        full = found.nbytes > memory
        if full or time.monotonic() - saved > SAVE_SECONDS:
            shelf.write(job, share, part, found, source.progress)
            saved = time.monotonic()
        if full:
            found, part = IndexAccumulator(sae.cfg.d_sae, len(corpus.concepts), job.seed), part + 1
    shelf.write(job, share, part, found, replace(source.progress, done=True))


def fingerprint(sae: SAE) -> str:
    """A hash of the SAE's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
