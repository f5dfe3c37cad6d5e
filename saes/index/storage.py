"""A feature index on disk: a folder `features` of Parquet files and an index.json that says what they were made from.

The folder appears whole or not at all: it is written beside its place, synced, and renamed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saes.index.records import Summary
from workbench.errors import DamagedFile
from workbench.files import read_json, write_json

FOLDER = "features"
INDEX_FILE = "index.json"
FORMAT = 1
TABLES = ("latents", "examples", "contexts", "logits", "neighbours", "coactive", "concepts", "strings")
ROW_GROUPS = {"examples": 4_096, "contexts": 256}
"""Rows that are read at once: few where rows are long and a query wants few of them."""


def write_index(directory: Path, tables: dict[str, pa.Table], summary: Summary) -> None:
    """Write `directory/features`, in place of an older one. Raises `OSError`; what was there before then stays."""
    with _whole_folder(directory / FOLDER) as folder:
        for name in TABLES:
            path = folder / f"{name}.parquet"
            pq.write_table(tables[name], path, compression="zstd", row_group_size=ROW_GROUPS.get(name, 16_384))
            _sync(path)
        write_json(folder / INDEX_FILE, {"format": FORMAT} | asdict(summary))


def read_summary(directory: Path) -> Summary:
    """The facts in index.json. Raises `DamagedFile`."""
    folder = directory / FOLDER
    if not folder.is_dir():
        raise DamagedFile(f"{directory} has no feature index; `workbench sae index {directory}` makes one")
    facts: Any = read_json(folder / INDEX_FILE)
    if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
        raise DamagedFile(f"{folder / INDEX_FILE} is not a feature index of format {FORMAT}; index the SAE again")
    try:
        return Summary(**facts)
    except TypeError as error:
        raise DamagedFile(f"{folder / INDEX_FILE} has missing or unknown entries ({error})") from None


def check_tables(directory: Path) -> None:
    """Read the footer of every table, which a truncated file lacks. Raises `DamagedFile`."""
    for name in TABLES:
        path = table_path(directory, name)
        try:
            pq.read_metadata(path)
        except FileNotFoundError:
            raise DamagedFile(f"{path} is missing; index the SAE again") from None
        except (pa.ArrowException, OSError) as error:
            raise DamagedFile(f"{path} is truncated or not a Parquet file ({error}); index the SAE again") from None


def table_path(directory: Path, table: str) -> Path:
    return directory / FOLDER / f"{table}.parquet"


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
