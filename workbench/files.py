"""Files written whole or not at all, and read with errors that name the file and what is wrong with it."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from workbench.errors import DamagedFile, SettingError

try:
    import fcntl
except ImportError:  # Windows, which can neither lock a directory nor sync one
    fcntl = None


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed to `path`, otherwise removed.

    A reader sees the old file or the new one, never a part. Works for any writer that takes a path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it becomes `path`, which must be free; else it is removed.

    What is written into it should be synced to disk, as `whole_file` does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        yield stage
        os.chmod(stage, 0o777 & ~_umask())
        os.replace(stage, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def remove_directory(path: str | Path) -> None:
    """Remove a directory, if there is one, such that no reader sees a part of it."""
    path = Path(path)
    if path.is_dir():
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        os.replace(path, part)
        shutil.rmtree(part)


def remove_parts(path: str | Path, of: str = "*") -> None:
    """Remove what a killed process left of the files and directories (named `of`) that it was writing in `path`."""
    for part in Path(path).glob(f".{of}.*part"):
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


@contextmanager
def held(directory: str | Path) -> Iterator[None]:
    """Keep other processes that ask out of a directory. However this process ends, the system lets it go.

    Raises `SettingError` if another process holds it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(f"another process is at work in {directory}") from None
        yield
    finally:
        os.close(handle)


def _sync(directory: Path) -> None:
    """Make renames in a directory outlive a power cut, where the system can."""
    if fcntl is not None:
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; `DamagedFile` if it is missing or not JSON."""
    try:
        return parse_json(Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing") from None


def parse_json(content: bytes, path: str | Path) -> Any:
    """The value that a JSON file at `path` holds; `DamagedFile` if it is not JSON."""
    try:
        return json.loads(content.decode())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is not valid JSON ({error})") from None


def read_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a .jsonl or .csv file, each with the number of the line that it ends on.

    A line of JSON that is no object is an empty record. Raises `DamagedFile` for a file that is neither.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".csv"):
        raise DamagedFile(f"{path}: a .jsonl or .csv file is needed")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                for record in (rows := csv.DictReader(file)):
                    yield rows.line_num, record
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = json.loads(line)
                    yield number, record if isinstance(record, dict) else {}
    except json.JSONDecodeError as error:
        raise DamagedFile(f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from None


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. Tensors are moved to the CPU and made contiguous."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as part:
        try:
            save_file(ready, part, metadata=dict(metadata or {}))
        except SafetensorError as error:  # it wraps the operating system's error, a full disk among them
            raise OSError(f"cannot write {path}: {error}") from None


def read_tensors(path: str | Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Read a safetensors file; `DamagedFile` if it is missing, truncated or something else."""
    if not Path(path).is_file():
        raise DamagedFile(f"{path} is missing")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise _not_tensors(path, error) from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; `DamagedFile` as for `read_tensors`."""
    if not Path(path).is_file():
        raise DamagedFile(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise _not_tensors(path, error) from None


def parse_tensors(content: bytes, path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors that a safetensors file at `path` holds; `DamagedFile` if it is truncated or something else."""
    try:
        return load(content)
    except SafetensorError as error:
        raise _not_tensors(path, error) from None


def _not_tensors(path: str | Path, error: SafetensorError) -> DamagedFile:
    return DamagedFile(f"{path} is truncated or not a safetensors file ({error})")
