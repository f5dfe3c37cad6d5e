"""A command: a summary, a dataclass of options, and the function that takes it, named lazily so that help is fast."""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

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

    def load_options(self) -> type:
        return _load(self.options)

    def load_run(self) -> Any:
        return _load(self.run)


def _load(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def read_config(path: str | Path, options: type) -> dict[str, Any]:
    """The settings in a YAML file, checked against the fields of `options`."""
    settings = read_settings(path)
    check_names(settings, [field.name for field in fields(options)], path)
    kinds = get_type_hints(options)
    return {name: _typed(kinds[name], value) for name, value in settings.items()}


def _typed(kind: Any, value: Any) -> Any:
    """Text as a path, and a list as a tuple, where the field is one."""
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(get_args(kind)[0], item) for item in value)
    return Path(value) if kind in (Path, Path | None) and isinstance(value, str) else value


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
