"""Documents as one Arrow column of strings, from files and Hugging Face datasets.

An Arrow column takes as much memory as its text. Only a dataset directory is memory-mapped and may be larger than
memory; the dataset of a hub id is streamed.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.errors import CorpusError

if TYPE_CHECKING:
    from datasets import IterableDataset

TEXT = "text"
"""The column, or JSON field, that holds the documents."""

LONGEST = 2**18
"""Characters after which a document of a .txt file is cut, at the next line end."""

_BOUNDARY = re.compile(
    r"^<\|endoftext\|>[ \t]*\n?"  # the line between documents in the TinyStories files
    r"|(?=^ = [^=\n]+ = $)",  # before an article's title in the WikiText files
    re.MULTILINE,
)
_BLOCK, _BLOCKS = 2**20, 256


def read_txt(path: Path) -> pa.ChunkedArray:
    """The documents of a UTF-8 text file.

    A line `<|endoftext|>` ends a document and is dropped; a WikiText title (` = Title = `) begins one. A file with
    neither is one document, as blank lines part paragraphs and not documents. One longer than `LONGEST` characters is
    cut into several at line ends, so that no document is too large to tokenise at once.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from None
    return _column([piece for document in _BOUNDARY.split(text) for piece in _bounded(document)])


def _bounded(document: str) -> list[str]:
    pieces, start = [], 0
    while len(document) - start > LONGEST:
        stop = document.find("\n", start + LONGEST) + 1
        if not stop:
            break
        pieces.append(document[start:stop])
        start = stop
    return [*pieces, document[start:]]


def read_jsonl(path: Path) -> pa.ChunkedArray:
    """The `text` field of each line of a JSON Lines file; blank lines are skipped."""
    documents = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                documents.append(_jsonl_text(line, f"{path}, line {number}"))
    return _column(documents)


def _jsonl_text(line: bytes, where: str) -> str:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where}: not UTF-8 text: byte {error.start} cannot be decoded") from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(record, dict):
        raise CorpusError(f'{where}: a JSON object with a "{TEXT}" field is needed, not {type(record).__name__}')
    if TEXT not in record:
        raise CorpusError(f'{where}: no "{TEXT}" field; it has {_listed(record)}')
    if not isinstance(record[TEXT], str):
        raise CorpusError(f'{where}: "{TEXT}" must be a string, not {type(record[TEXT]).__name__}')
    return record[TEXT]


def read_parquet(path: Path) -> pa.ChunkedArray:
    """The `text` column of a Parquet file."""
    try:
        file = pq.ParquetFile(path)
        _check_columns(file.schema_arrow.names, str(path))
        table = file.read(columns=[TEXT])
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path} is truncated or not a Parquet file ({_first_line(error)})") from None
    return _strings(table.column(TEXT), str(path))


def read_dataset_directory(path: Path, split: str) -> pa.ChunkedArray:
    """The `text` column of what `datasets` saved with `save_to_disk`, memory-mapped."""
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # whatever a foreign or damaged directory makes the library stumble over
        raise CorpusError(f"{path} is not a directory saved by `datasets` ({_first_line(error)})") from None
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise CorpusError(f"{path} has no split {split!r}; it has {_listed(dataset)}")
        dataset = dataset[split]
    else:
        check_single_split(str(path), split)
    _check_columns(dataset.column_names, str(path))
    return _strings(dataset.data.column(TEXT), str(path))


def stream_dataset(source: str, split: str) -> "IterableDataset":
    """Open the hub dataset `source` ("owner/name" or "owner/name:configuration") for streaming."""
    from datasets import load_dataset

    name, _, configuration = source.partition(":")
    try:
        dataset = load_dataset(name, configuration or None, split=split, streaming=True)
        columns = dataset.column_names or list(next(iter(dataset), {}))
    except Exception as error:  # the hub's, the network's and the dataset's own errors share no base class
        raise CorpusError(
            f"cannot open corpus {source!r}: no such file or directory, "
            f"and not available as a Hugging Face dataset ({_first_line(error)})"
        ) from None
    _check_columns(columns, source)
    return dataset.select_columns([TEXT])


def check_single_split(name: str, split: str) -> None:
    """A corpus of one piece has only the split "train"."""
    if split != "train":
        raise CorpusError(f"{name} has no split {split!r}; a file holds only 'train'")


def file_digest(path: Path) -> str:
    """A hash of a file's size and of up to 256 evenly spaced blocks of 1 MiB: all of a file of up to 256 MiB.

    A directory's digest is that of its files' names and digests.
    """
    if path.is_dir():
        parts = [f"{file.relative_to(path)} {file_digest(file)}" for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    count = min(_BLOCKS, -(-size // _BLOCK))
    with path.open("rb") as file:
        for block in range(count):
            file.seek(block * max(size - _BLOCK, 0) // max(count - 1, 1) if count == _BLOCKS else block * _BLOCK)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _column(documents: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(documents, pa.large_string())])


def _strings(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise CorpusError(f'{name}: the column "{TEXT}" must hold strings, not {kind}')
    return column


def _check_columns(names: list[str], source: str) -> None:
    if TEXT not in names:
        raise CorpusError(f'{source} has no column "{TEXT}"; it has {_listed(names)}')


def _listed(names) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
