"""Where a corpus gets its documents: seeded, tokenised blocks, addressed by their number so that reading can resume."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workbench.errors import CorpusError
from workbench.packing import Documents

if TYPE_CHECKING:
    from datasets import IterableDataset

BLOCK_BYTES = 2**18
"""Text in one block: small enough to start at once, large enough to tokenise and pack well."""
CACHE_TOKENS = 2**28
"""Tokens that one source remembers (1 GiB); documents beyond them are tokenised anew in every epoch."""
SHUFFLE_DOCUMENTS = 10_000
"""Documents in the shuffle buffer of a stream."""


@runtime_checkable
class Source(Protocol):
    """A seeded order of documents, the same whenever it is asked for."""

    concepts: tuple[str, ...]

    def blocks(self, epoch: int, start: int) -> Iterator[Documents]:
        """The blocks of an epoch from number `start` on."""
        ...


class Encoder:
    """Texts to token ids, without the tokenizer's own special tokens, each beginning with `bos` unless that is None."""

    def __init__(self, tokenizer: Any, bos: int | None):
        self._tokenizer = tokenizer
        self._prefix = [] if bos is None else [bos]

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """Int32 ids of each text; none at all for a text without tokens."""
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # texts longer than the model's context are meant: they are packed afterwards
        )
        return [np.array(self._prefix + ids if ids else [], np.int32) for ids in encoded["input_ids"]]

    @property
    def fingerprint(self) -> str:
        """A hash of the vocabulary and of how text is split into it."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        facts = json.loads(backend.to_str()) if backend else self._tokenizer.get_vocab()
        facts = {key: value for key, value in facts.items() if key not in ("truncation", "padding", "post_processor")}
        return hashlib.sha256(json.dumps([self._prefix, facts], sort_keys=True).encode()).hexdigest()


class TextColumn:
    """Documents that can be reached by number: an Arrow column of strings, shuffled anew in every epoch.

    Each text is tokenised once and remembered, up to `CACHE_TOKENS`. What grows with the corpus: the column itself,
    unless it is memory-mapped; 40 bytes a document for the order of an epoch; 4 bytes a remembered token.
    """

    concepts: tuple[str, ...] = ()

    def __init__(self, column: pa.ChunkedArray, encode: Callable[[list[str]], list[np.ndarray]], seed: int):
        sizes = pc.fill_null(pc.binary_length(column), 0)
        self._sizes = sizes.to_numpy().astype(np.int64)
        self._column, self._encode, self._seed = column, encode, seed
        self._remembered: dict[int, np.ndarray] = {}
        self._n_remembered = 0

    def blocks(self, epoch: int, start: int) -> Iterator[Documents]:
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._sizes))
        sizes = self._sizes[order]
        block = (np.cumsum(sizes) - sizes) // BLOCK_BYTES
        for members in np.split(order, np.flatnonzero(np.diff(block)) + 1)[start:]:
            yield _documents(self._tokens(members.tolist()), members)

    def _tokens(self, members: list[int]) -> list[np.ndarray]:
        known = self._remembered
        fresh = [number for number in members if number not in known]
        texts = [text or "" for text in self._column.take(pa.array(fresh, pa.int64())).to_pylist()]
        encoded = dict(zip(fresh, self._encode(texts) if texts else [], strict=True))
        tokens = [known[number] if number in known else encoded[number] for number in members]
        if self._n_remembered < CACHE_TOKENS:
            known.update(encoded)
            self._n_remembered += sum(map(len, encoded.values()))
        return tokens


class TextStream:
    """Documents that come one after another, from a Hugging Face streaming dataset, through a seeded shuffle buffer.

    Documents are numbered in the order of the epoch. Resuming reads past what was seen before, without tokenising it.
    """

    concepts: tuple[str, ...] = ()

    def __init__(self, dataset: "IterableDataset", encode: Callable[[list[str]], list[np.ndarray]], seed: int):
        self._dataset = dataset.shuffle(seed=seed, buffer_size=SHUFFLE_DOCUMENTS)
        self._encode = encode

    def blocks(self, epoch: int, start: int) -> Iterator[Documents]:
        self._dataset.set_epoch(epoch)
        texts = (row["text"] or "" for row in self._dataset)
        for first, block in islice(_by_size(texts), start, None):
            yield _documents(self._encode(block), np.arange(first, first + len(block)))


class Tinytown:
    """The generator of the bundled language: endless, and labelled with concepts."""

    def __init__(self, seed: int, split: str, genre: str | None = None):
        from workbench.tinytown.concepts import CONCEPTS
        from workbench.tinytown.language import BOS, Language

        if split not in ("train", "held_out"):
            raise CorpusError(f"tinytown has no split {split!r}; it has 'train' and 'held_out'")
        self.language = Language(genre)
        self.concepts = CONCEPTS
        self.bos = self.language.ids[BOS]
        self._seed, self._split = seed, split

    def blocks(self, epoch: int, start: int) -> Iterator[Documents]:
        for chunk in self.language.chunks(self._seed, self._split, start=start):
            numbers, lengths = np.unique(chunk.document, return_counts=True)
            yield Documents(chunk.tokens.astype(np.int32), lengths, numbers.astype(np.int64), chunk.labels)


def _documents(tokens: Sequence[np.ndarray], numbers: np.ndarray) -> Documents:
    lengths = np.array([len(ids) for ids in tokens], np.int64)
    flat = np.concatenate([*tokens, np.empty(0, np.int32)])
    return Documents(flat, lengths, numbers.astype(np.int64))


def _by_size(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Group texts until they hold `BLOCK_BYTES` characters; each group comes with the number of its first text."""
    first, block, size = 0, [], 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= BLOCK_BYTES:
            yield first, block
            first, block, size = first + len(block), [], 0
    if block:
        yield first, block
