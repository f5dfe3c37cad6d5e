"""Logs of JSON lines, which hold whole lines only whatever happens while they are written."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from workbench.files import write_text


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a log, without one that a killed process was writing; none if there is no file."""
    return [record for line in _lines(path) if (record := _record(line)) is not None]


def rewind(path: str | Path, step: int) -> None:
    """Take back what was written after a step."""
    kept = [line for line in _lines(path) if (_record(line) or {}).get("step", math.inf) <= step]
    write_text(path, b"".join(kept).decode())


def _lines(path: str | Path) -> list[bytes]:
    path = Path(path)
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None if it was not written to its end, or is none of a log's."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class MetricsLog:
    """A JSON-lines file that holds whole lines only: a line that the disk has no room for is taken back."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; NaN and infinity become null. Raises `OSError`, naming the file, if the disk is full."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        line = json.dumps(finite).encode() + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                os.ftruncate(self._file.fileno(), self._file.tell() - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
