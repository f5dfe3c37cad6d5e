"""A folder of whole files: a directory of this machine, or one that fsspec reaches by a URL (s3://…, gs://…, sftp://…).

Both hold flat JSON and safetensors files, which a reader sees whole or not at all.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import fsspec
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import save
from torch import Tensor

from workbench.errors import DamagedFile, SettingError
from workbench.files import parse_json, parse_tensors, read_json, read_tensors, write_json, write_tensors


@runtime_checkable
class Folder(Protocol):
    """Files by name. Reading raises `DamagedFile` for one that is missing or broken, writing `OSError`; both say where
    it is.
    """

    def names(self) -> list[str]:
        """What is there; nothing if the folder itself is not. Raises `SettingError` if it is a file."""
        ...

    def place(self, name: str) -> str:
        """Where a file is, for a person."""
        ...

    def read_json(self, name: str) -> Any: ...

    def write_json(self, name: str, value: Any) -> None: ...

    def read_tensors(self, name: str) -> dict[str, Tensor]: ...

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None: ...


def open_folder(where: str | Path) -> Folder:
    """The folder at a path or a URL. Raises `SettingError` for a URL that nothing here can read."""
    if "://" not in str(where):
        return LocalFolder(Path(where))
    try:
        system, path = fsspec.url_to_fs(str(where))
    except (ImportError, ValueError) as error:
        raise SettingError(f"cannot open {where}: {error}") from None
    return LocalFolder(Path(path)) if isinstance(system, LocalFileSystem) else RemoteFolder(str(where), system, path)


class LocalFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"a folder is needed, and {self.path} is a file")
        return _whole(path.name for path in self.path.iterdir()) if self.path.exists() else []

    def place(self, name: str) -> str:
        return str(self.path / name)

    def read_json(self, name: str) -> Any:
        return read_json(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        return read_tensors(self.path / name)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        write_tensors(self.path / name, tensors)


class RemoteFolder:
    """A file is put under a temporary name, and takes its own when it is all there."""

    def __init__(self, url: str, system: fsspec.AbstractFileSystem, path: str) -> None:
        self.url, self._system, self._path = url.rstrip("/"), system, path.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def names(self) -> list[str]:
        with _failing(f"cannot read {self.url}"):
            self._system.invalidate_cache()
            if self._system.isfile(self._path):
                raise SettingError(f"a folder is needed, and {self.url} is a file")
            with suppress(FileNotFoundError):
                found = self._system.ls(self._path, detail=False)
                return _whole(path.rstrip("/").rpartition("/")[2] for path in found)
            return []

    def place(self, name: str) -> str:
        return f"{self.url}/{name}"

    def read_json(self, name: str) -> Any:
        return parse_json(self._read(name), self.place(name))

    def write_json(self, name: str, value: Any) -> None:
        self._write(name, json.dumps(value, indent=2).encode())

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        return parse_tensors(self._read(name), self.place(name))

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._write(
            name, save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, metadata={})
        )

    def _read(self, name: str) -> bytes:
        with _failing(f"cannot read {self.place(name)}"):
            try:
                return self._system.cat_file(f"{self._path}/{name}")
            except FileNotFoundError:
                raise DamagedFile(f"{self.place(name)} is missing") from None

    def _write(self, name: str, content: bytes) -> None:
        part = f"{self._path}/.{name}.{secrets.token_hex(8)}.part"
        with _failing(f"cannot write {self.place(name)}"):
            self._system.makedirs(self._path, exist_ok=True)
            try:
                self._system.pipe_file(part, content)
                self._system.mv(part, f"{self._path}/{name}")
            except BaseException:
                with suppress(Exception):
                    self._system.rm_file(part)
                raise


def _whole(names: Iterable[str]) -> list[str]:
    """Without what a killed process was writing."""
    return [name for name in names if not name.endswith(".part")]


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Whatever a filesystem raises, as an `OSError` that says what failed, in a line."""
    try:
        yield
    except (DamagedFile, SettingError):
        raise
    except Exception as error:
        why = str(error).splitlines() or [type(error).__name__]
        raise OSError(f"{what}: {why[0]}") from error
