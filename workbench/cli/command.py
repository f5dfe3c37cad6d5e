"""A command: a summary, a dataclass of options, and the function that takes it, named lazily so that help is fast."""

import importlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from workbench.errors import SettingError, suggestion


@dataclass(frozen=True)
class Command:
    """One `workbench` command, announced under the entry-point group `workbench.commands`."""

    summary: str
    """One line for the list of commands."""
    options: str
    """`module:Dataclass` whose fields are the options; its module must import nothing heavy."""
    run: str
    """`module:function` called with the options. What it returns is printed, as text or as JSON."""
    figure: str | None = None
    """`module:function` that draws what `run` returned, for `--figure`: one figure, or several for a page."""

    def load_options(self) -> type:
        return _load(self.options)

    def load_run(self) -> Any:
        return _load(self.run)

    def load_figure(self) -> Any:
        return _load(self.figure)


def _load(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def read_config(path: str | Path, options: type) -> dict[str, Any]:
    """The settings in a YAML file, checked against the fields of `options`."""
    settings = read_settings(path)
    check_names(settings, [field.name for field in fields(options)], path)
    kinds = get_type_hints(options)
    typed = {}
    for name, value in settings.items():
        try:
            typed[name] = _typed(kinds[name], value)
        except _Unfit as wanted:
            raise SettingError(f"{path}: {name} must be {wanted}, not {value!r}") from None
    return typed


class _Unfit(Exception):
    """Says in words what a setting must be."""


_IN_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def _typed(kind: Any, value: Any) -> Any:
    """A value of a YAML file as the type of its option: text as a path, a list as a tuple, 1e-3 (text to YAML) as a
    number. Raises `_Unfit`.
    """
    if get_origin(kind) in (Union, UnionType):
        return None if value is None else _typed(next(one for one in get_args(kind) if one is not NoneType), value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise _Unfit("one of " + ", ".join(map(str, get_args(kind))))
        return value
    if get_origin(kind) in (tuple, Sequence):
        if not isinstance(value, list | tuple):
            raise _Unfit("a list")
        try:
            return tuple(_typed(get_args(kind)[0], item) for item in value)
        except _Unfit as each:
            raise _Unfit(f"a list, each {each}") from None
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            return float(value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if type(value) is not kind:
        raise _Unfit(_IN_WORDS[kind])
    return value


def read_settings(path: str | Path) -> dict[str, Any]:
    """The `name: value` lines of a YAML file."""
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise SettingError(f"{path} must hold `name: value` lines, one for each option")
    return settings


def check_names(settings: Iterable[str], known: Sequence[str], path: str | Path) -> None:
    """Raises `SettingError`, with the nearest right one, for a name that is not known."""
    for name in settings:
        if name not in known:
            raise SettingError(f"{path}: unknown setting {name!r}{suggestion(str(name), known)}")


def required_fields(options: type) -> set[str]:
    return {field.name for field in fields(options) if field.default is MISSING and field.default_factory is MISSING}
