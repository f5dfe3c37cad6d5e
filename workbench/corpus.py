"""Corpora: streams of tokenised documents, packed to a context length, in an order that a seed decides.

A corpus is read in batches. Each batch says where it ends, and reading from there gives exactly what an uninterrupted
reading would have given.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from workbench import readers
from workbench.errors import CorpusError, SettingError, suggestion
from workbench.packing import Contexts, pack
from workbench.sources import Encoder, Source, TextColumn, TextStream, Tinytown


class Position(NamedTuple):
    """A place between two contexts of a corpus. `json.dumps` writes it as a list; `Position(*saved)` brings it back."""

    epoch: int = 0
    block: int = 0
    context: int = 0


START = Position()

HELD_OUT_SEED = 2**31 - 1
"""Of the order in which a corpus without a held-out part is read again."""


@dataclass(frozen=True)
class TokenBatch:
    """Some contexts of a corpus, on the CPU."""

    tokens: Int64[Tensor, "batch pos"]
    documents: Int64[Tensor, "batch pos"]
    """The number of the document that each token belongs to; -1 for padding."""
    position: Position
    """Where the corpus goes on after this batch."""
    concepts: tuple[str, ...] = ()
    label_bits: Int64[Tensor, "batch pos"] | None = None
    """Bit i is set where concept i holds; None in a corpus without labels."""

    @property
    def labels(self) -> Bool[Tensor, "batch pos concept"] | None:
        """Which concepts hold at each token, or None in a corpus without labels."""
        if self.label_bits is None:
            return None
        return (self.label_bits[..., None] >> torch.arange(len(self.concepts)) & 1).bool()

    def mask(self, skip: tuple[int, ...] = ()) -> Bool[Tensor, "batch pos"]:
        """The positions that hold a token (no padding) other than those with an id in `skip`."""
        real = self.documents >= 0
        return real & ~torch.isin(self.tokens, torch.tensor(skip, dtype=torch.int64)) if skip else real


@runtime_checkable
class Corpus(Protocol):
    """A source of tokenised documents, read in batches of contexts."""

    name: str
    context: int
    """Positions in a context."""
    concepts: tuple[str, ...]
    """The concepts that tokens are labelled with; empty if they are not."""

    @property
    def fingerprint(self) -> str:
        """A hash of the documents, the tokenizer and the settings."""
        ...

    def batches(self, batch_size: int, position: Position = START, repeat: bool = False) -> Iterator[TokenBatch]:
        """Batches of `batch_size` contexts (the last may be smaller) from `position` on.

        With `repeat`, epoch follows epoch without end, each in an order of its own. Tinytown has no end in any case.
        """
        ...


class PackedCorpus:
    """A corpus made from any `Source` of documents, packed whole into contexts (see `workbench.packing.pack`)."""

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        context: int,
        seed: int,
        bos: int | None,
        pad: int,
        digest: Callable[[], str],
    ):
        if context < 2:
            raise SettingError(f"context must be at least 2 tokens, not {context}")
        self.name, self.context = name, context
        self.concepts = source.concepts
        self._source, self._seed, self._bos, self._pad, self._digest = source, seed, bos, pad, digest

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the documents (of large files, a sample: `readers.file_digest`), the tokenizer and the settings."""
        facts = (self._digest(), self.context, self._seed, self._bos)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def batches(self, batch_size: int, position: Position = START, repeat: bool = False) -> Iterator[TokenBatch]:
        """See `Corpus.batches`. Raises `CorpusError` if the documents hold no token."""
        parts: list[Contexts] = []
        wanted = batch_size
        end = position
        for contexts, end in self._blocks(position, repeat):
            while end.context < len(contexts.tokens):
                part = contexts.rows(end.context, end.context + wanted)
                parts.append(part)
                wanted -= len(part.tokens)
                end = end._replace(context=end.context + len(part.tokens))
                if wanted == 0:
                    yield self._batch(parts, end)
                    parts, wanted = [], batch_size
        if parts:
            yield self._batch(parts, end)

    def _blocks(self, position: Position, repeat: bool) -> Iterator[tuple[Contexts, Position]]:
        """Packed blocks from `position` on, each with the position of its first unread context."""
        epoch, start, context = position
        while True:
            empty = start == 0
            for block, documents in enumerate(self._source.blocks(epoch, start), start):
                rng = np.random.default_rng((self._seed, epoch, block))
                packed = pack(documents, context=self.context, bos=self._bos, pad=self._pad, rng=rng)
                empty = empty and not len(packed.tokens)
                yield packed, Position(epoch, block, context)
                context = 0
            if empty:
                raise CorpusError(f"{self.name} is empty: there is no token in it")
            if not repeat:
                return
            epoch, start, context = epoch + 1, 0, 0

    def _batch(self, parts: list[Contexts], position: Position) -> TokenBatch:
        tokens, documents = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        bits = np.concatenate([part.label_bits for part in parts]).view(np.int64) if self.concepts else None
        return TokenBatch(
            tokens=torch.from_numpy(tokens.astype(np.int64)),
            documents=torch.from_numpy(documents),
            position=position,
            concepts=self.concepts,
            label_bits=None if bits is None else torch.from_numpy(bits),
        )


def open_corpus(
    source: str | Path,
    tokenizer: Any = None,
    *,
    context: int = 128,
    seed: int = 0,
    split: str = "train",
    bos: bool | None = None,
) -> PackedCorpus:
    """Open a corpus: `workbench.readers` says what its documents are, `workbench.packing` how they are packed.

    `source` is "tinytown", or "tinytown:GENRE" for texts of one genre; a .txt, .jsonl or .parquet file; a directory
    saved by `datasets`; or the id of a Hugging Face dataset ("owner/name", or "owner/name:configuration"), which is
    streamed.
    `tokenizer` is a Hugging Face tokenizer; Tinytown needs none, and refuses any but its own.
    `bos`: whether every document, and every continued piece of one, begins with the tokenizer's BOS; by default, if it
    has one. (GPT-2's is `<|endoftext|>`, which parted documents in its training.)
    `seed` decides the order of documents and of contexts.

    Raises `CorpusError` for a source that cannot be found, read, or tokenised, or that is empty.
    """
    if seed < 0:
        raise SettingError(f"seed must be 0 or more, not {seed}")
    bundled, _, genre = str(source).partition(":")
    if bundled == "tinytown":
        return _open_tinytown(genre or None, tokenizer, context=context, seed=seed, split=split)
    if tokenizer is None:
        raise CorpusError(f"reading {source} takes a tokenizer, and this model has none")
    bos_id = _bos_id(tokenizer, bos)
    encode = Encoder(tokenizer, bos_id)
    path = Path(source)
    if path.exists():
        column = _read(path, split)
        if not pc.any(pc.greater(pc.binary_length(column), 0)).as_py():
            raise CorpusError(f"{path} is empty: there is no text in it")
        documents, content = TextColumn(column, encode, seed), lambda: readers.file_digest(path)
    else:
        _check_dataset_id(str(source))
        documents, content = TextStream(readers.stream_dataset(str(source), split), encode, seed), lambda: str(source)
    return PackedCorpus(
        name=str(source),
        source=documents,
        context=context,
        seed=seed,
        bos=bos_id,
        pad=next((i for i in (tokenizer.pad_token_id, bos_id) if i is not None), 0),
        digest=lambda: f"{content()} {split} {encode.fingerprint}",
    )


def concept_index(source: str, concepts: Sequence[str], concept: str) -> int:
    """The number of a concept among those that a source labels. Raises `SettingError` if it is not one of them."""
    if concept in concepts:
        return concepts.index(concept)
    few = ", ".join(concepts[:4]) + (f" and {len(concepts) - 4} more" if len(concepts) > 4 else "")
    hint = suggestion(concept, concepts) or f"; its labels are {few or 'none'}"
    raise SettingError(f"{source} has no labels of {concept!r}{hint}")


def open_held_out(source: str | Path, tokenizer: Any = None, *, context: int = 128) -> PackedCorpus:
    """The held-out part of a corpus. Of one that has none, all of it in another order, under a name that says so."""
    try:
        return open_corpus(source, tokenizer, context=context, split="held_out")
    except CorpusError:
        corpus = open_corpus(source, tokenizer, context=context, seed=HELD_OUT_SEED)
        corpus.name += " (trained on as well: it has no held-out part)"
        return corpus


def _open_tinytown(genre: str | None, tokenizer: Any, *, context: int, seed: int, split: str) -> PackedCorpus:
    source = Tinytown(seed, split, genre)
    if tokenizer is not None and tokenizer.get_vocab() != source.language.ids:
        raise CorpusError("the tinytown corpus fits only models with its vocabulary; give this one a text corpus")
    digest = f"tinytown {genre} {split} {source.language.fingerprint}"
    return PackedCorpus(
        name="tinytown" if genre is None else f"tinytown:{genre}",
        source=source,
        context=context,
        seed=seed,
        bos=source.bos,
        pad=source.bos,
        digest=lambda: digest,
    )


def _bos_id(tokenizer: Any, bos: bool | None) -> int | None:
    if bos and tokenizer.bos_token_id is None:
        raise CorpusError("this tokenizer has no BOS token to begin documents with; leave `bos` out")
    return None if bos is False else tokenizer.bos_token_id


def _read(path: Path, split: str):
    if path.is_dir():
        return readers.read_dataset_directory(path, split)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CorpusError(f"{path} is not a corpus: a .txt, .jsonl or .parquet file is needed")
    readers.check_single_split(str(path), split)
    try:
        return reader(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from None


def _check_dataset_id(source: str) -> None:
    if Path(source).suffix.lower() in _READERS or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?", source):
        raise CorpusError(f"there is no file {source}")


_READERS: dict[str, Callable] = {
    ".txt": readers.read_txt,
    ".jsonl": readers.read_jsonl,
    ".parquet": readers.read_parquet,
}
