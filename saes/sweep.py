"""A sweep: the runs that a YAML file asks for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from saes.config import SweepConfig, TrainConfig
from workbench.cli.command import check_names, read_settings
from workbench.errors import SettingError
from workbench.sites import expand, layer_of

LISTS = (tuple, Sequence)
"""Kinds of option of which one value is a list."""

SHARED = (
    "model",
    "corpus",
    "tokens",
    "batch_size",
    "context",
    "buffer",
    "data_seed",
    "cache",
    "log_every",
    "log_to",
    "checkpoint_every",
    "eval_tokens",
    "device",
    "parallel",
)
"""Options of the pass over the model, which all runs share. Those of the SAE itself may vary."""
_SET_HERE = ("out", "overwrite", "resume")


@dataclass(frozen=True)
class Sweep:
    """What a file asks for: the directory of the runs, the settings of each, and the model that all of them read."""

    file: Path
    home: Path
    members: list[dict[str, Any]]
    model: str
    device: str | None

    def configs(self, known: Sequence[str]) -> list[TrainConfig]:
        """A configuration for each run, its directory within `home`. `known` are the model's sites.

        A run is named after the settings in which it differs from the others: `topk-k8`. Raises `SettingError` if two
        are the same, and `UnknownSite`.
        """
        members = [one for member in self.members for one in _at_each_site(member, known)]
        names = _names(members, self.file)
        return [TrainConfig(**member | {"out": self.home / name}) for member, name in zip(members, names, strict=True)]


def read_sweep(sweep: SweepConfig) -> Sweep:
    """Read the file of a sweep. Data are shuffled by `data_seed`, or else by the first seed.

    Raises `SettingError` for a file that cannot be read or makes no sense.
    """
    settings = read_settings(sweep.file)
    groups = settings.pop("runs", [{}])
    known = [field.name for field in fields(TrainConfig) if field.name not in _SET_HERE]
    check_names(settings, [*known, "out", "runs"], sweep.file)
    out = sweep.out or settings.pop("out", None)
    settings.pop("out", None)
    if out is None:
        raise SettingError(f"{sweep.file} does not say where the runs should go; give it an `out`")
    if not isinstance(groups, list) or not groups or not all(isinstance(group, dict) for group in groups):
        raise SettingError(
            f"{sweep.file}: runs must be a list of groups such as `- {{architecture: topk, k: [8, 16]}}`"
        )
    for group in groups:
        check_names(group, known, sweep.file)
        if shared := [name for name in group if name in SHARED]:
            raise SettingError(f"{sweep.file}: {shared[0]} is the same for all runs; write it above them")
    members = [member for group in groups for member in _combinations(settings | group, sweep.file)]
    if not all(member.get("site") for member in members):
        raise SettingError(f"{sweep.file} does not say where the activations come from; give it a `site`")
    here = {"overwrite": sweep.overwrite, "resume": sweep.resume, "data_seed": members[0].get("seed", 0)}
    device = {} if sweep.device is None else {"device": sweep.device}
    members = [here | member | device for member in members]
    first, *_ = [TrainConfig(**member | {"out": Path(out)}) for member in members]
    return Sweep(sweep.file, Path(out), members, first.model, first.device)


def _at_each_site(member: dict[str, Any], known: Sequence[str]) -> list[dict[str, Any]]:
    """A run for each site of a pattern, unless one run is to read them all; a `*` in `site_out` is the same layer."""
    if "*" not in member["site"] or member.get("architecture", "").endswith("crosscoder"):
        return [member]
    out = member.get("site_out")
    return [
        member | {"site": site} | ({"site_out": out.replace("*", str(layer_of(site)))} if out else {})
        for site in expand(member["site"], known)
    ]


def _combinations(settings: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    kinds = get_type_hints(TrainConfig)
    choices = []
    for name, value in settings.items():
        listed = isinstance(value, list)
        whole = get_origin(kinds[name]) in LISTS and not (listed and any(isinstance(one, list) for one in value))
        if value == [] and not whole:
            raise SettingError(f"{path}: {name} is an empty list")
        if listed and not whole and name in SHARED:
            raise SettingError(f"{path}: {name} is the same for all runs of a sweep, so it cannot be a list")
        values = value if listed and not whole else [value]
        choices.append([(name, _typed(name, one, kinds[name], path)) for one in values])
    return (dict(chosen) for chosen in product(*choices))


def _typed(name: str, value: Any, kind: Any, path: Path) -> Any:
    """The value as the option's type: YAML reads 2e-3 as text, and 2 where 2.0 is meant as an integer."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise SettingError(f"{path}: {name} must be one of {', '.join(get_args(kind))}, not {value!r}")
        return value
    if get_origin(kind) in LISTS:
        inner = get_args(kind)[0]
        return tuple(_typed(name, one, inner, path) for one in (value if isinstance(value, list) else [value]))
    options = [one for one in (get_args(kind) or (kind,)) if one is not type(None)]
    if value is None and len(get_args(kind)) > len(options):
        return None
    if bool in options or isinstance(value, bool):
        fits = bool in options and isinstance(value, bool)
    else:
        fits = isinstance(value, str | int | float) and not (int in options and isinstance(value, float))
    try:
        if fits:
            return options[0](value)
    except ValueError:
        pass
    raise SettingError(f"{path}: {name} must be {options[0].__name__}, not {value!r}")


def _names(members: list[dict[str, Any]], path: Path) -> list[str]:
    every = [field.name for field in fields(TrainConfig)]
    varying = [name for name in every if len({member.get(name) for member in members}) > 1]
    names = ["-".join(_part(name, member[name]) for name in varying if name in member) for member in members]
    names = [name or members[0].get("architecture", "topk") for name in names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingError(f"{path} asks for the run {twice} twice")
    return names


def _part(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value.replace("*", "all")
    parts = value if isinstance(value, tuple) else [value]
    return name + "x".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
