"""The `workbench` command: finds the command that was asked for, parses its options, runs it, prints what it returns.

Exit status: 0 done, 1 failed (one line on standard error says why), 2 wrong usage.
"""

import dataclasses
import difflib
import inspect
import io
import json
import sys
from contextlib import redirect_stderr
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from workbench.cli.command import Command, read_config, required_fields
from workbench.errors import SettingError, WorkbenchError

GROUP = "workbench.commands"
EVERY_COMMAND = "Also: --config FILE.yaml (options override it), --json (print the result as JSON)"
DRAWN = ", --figure FILE (draw it: .html, or .json for plotly)"


class Request(NamedTuple):
    """What was asked of a command."""

    options: Any
    as_json: bool
    figure: Path | None
    """Where to draw the result."""


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    known = {entry.name.replace(".", " "): entry for entry in entry_points(group=GROUP)}
    name = next((" ".join(arguments[:n]) for n in (2, 1) if " ".join(arguments[:n]) in known), None)
    if name is None:
        return _no_such_command(arguments, known)
    return run_command(name, known[name].load(), arguments[len(name.split()) :])


def run_command(name: str, command: Command, arguments: list[str]) -> int:
    try:
        request = parse(name, command, arguments)
    except SettingError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    try:
        result = command.load_run()(request.options)
        if result is not None:
            print(json.dumps(to_json(result), indent=2) if request.as_json else result)
        if request.figure is not None:
            _draw(result, name, command, request.figure)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        what = error.strerror or str(error)
        print(f"workbench: {what}" + (f": {error.filename}" if error.filename else ""), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("workbench: interrupted", file=sys.stderr)
        return 1
    return 0


def _draw(result: Any, name: str, command: Command, path: Path) -> None:
    from workbench.figures.save import save_figures

    drawn = command.load_figure()(result)
    save_figures(path, drawn if isinstance(drawn, list) else [drawn], f"workbench {name}", command.summary)


def parse(name: str, command: Command, arguments: list[str]) -> Request:
    """The options, from defaults, then the `--config` file, then the command line; and what to do with the result."""
    import tyro

    arguments = list(arguments)
    as_json = "--json" in arguments
    if as_json:
        arguments.remove("--json")
    options = command.load_options()
    config = _taken(arguments, "--config", "the path of a YAML file")
    settings = read_config(config, options) if config else {}
    figure = _taken(arguments, "--figure", "an .html or .json file") if command.figure else None
    if figure and Path(figure).suffix not in (".html", ".json"):
        raise SettingError(f"--figure is an .html or .json file, not {figure}")
    blanks = dict.fromkeys(required_fields(options) - settings.keys(), tyro.MISSING)
    _refuse_blank(arguments)
    try:
        with redirect_stderr(io.StringIO()) as said:
            parsed = tyro.cli(
                options,
                prog=f"workbench {name}",
                description=f"{inspect.cleandoc(options.__doc__)}\n\n{EVERY_COMMAND}{DRAWN if command.figure else ''}.",
                args=arguments,
                default=_unvalidated(options, blanks | settings),
            )
    except SystemExit as end:
        if not end.code:  # help was asked for
            raise
        raise SettingError(f"{_in_a_line(said.getvalue())}; `workbench {name} --help` says more") from None
    for field in dataclasses.fields(parsed):
        if isinstance(value := getattr(parsed, field.name), int) and abs(value) >= 2**63:
            raise SettingError(f"--{field.name.replace('_', '-')} must be less than 2^63, not {value}")
    return Request(parsed, as_json, Path(figure) if figure else None)


def _taken(arguments: list[str], name: str, wanted: str) -> str | None:
    """The value after an option that every command has; both are removed from the arguments."""
    if name not in arguments:
        return None
    at = arguments.index(name)
    if at + 1 == len(arguments) or not arguments[at + 1].strip():
        raise SettingError(f"{name} needs {wanted}")
    value = arguments[at + 1]
    del arguments[at : at + 2]
    return value


def _refuse_blank(arguments: list[str]) -> None:
    """An empty argument is a variable of the shell that was not set; as a path it would be the current directory."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.strip():
            raise SettingError(f"{before} is empty" if before.startswith("--") else "an argument is empty")
        if argument.startswith("--") and argument.endswith("="):
            raise SettingError(f"{argument[:-1]} is empty")


def _in_a_line(box: str) -> str:
    """What tyro says under a title, in a box of several lines, without the help that follows."""
    lines = [line.strip(" │|") for line in box.splitlines()]
    _, *said = [line for line in lines if line.strip("╭╮╰╯─- ")]
    ends = (i for i, line in enumerate(said) if line.startswith(("For full helptext", "Argument helptext")))
    return " ".join(" ".join(said[: next(ends, len(said))]).split()).rstrip(".")


def _unvalidated(options: type, settings: dict[str, Any]) -> Any:
    """An instance holding `settings`, its `__post_init__` not run: some fields may still be missing."""
    instance = object.__new__(options)
    for field in dataclasses.fields(options):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        object.__setattr__(instance, field.name, settings.get(field.name, default))
    return instance


def to_json(value: Any) -> Any:
    """Plain JSON values of a result: dataclasses become objects, tensors and arrays lists, paths strings.

    A result that knows its own JSON has a method `to_dict`.
    """
    if hasattr(value, "to_dict"):
        return to_json(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _no_such_command(arguments: list[str], known: dict[str, Any]) -> int:
    asked = [word for word in arguments if not word.startswith("-")]
    if not asked and (not arguments or arguments[0] in ("-h", "--help")):
        print(_overview(known))
        return 0
    group = {name: entry for name, entry in known.items() if asked and name.split()[0] == asked[0]}
    if group and len(asked) == 1:
        print(_overview(group), file=sys.stdout if {"-h", "--help"} & set(arguments) else sys.stderr)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    name = " ".join(asked[:2]) or arguments[0]
    near = difflib.get_close_matches(name, known, n=1) or sorted(group)[:1]
    hint = f"did you mean `workbench {near[0]}`?" if near else "`workbench --help` lists the commands"
    print(f"workbench: no command {name!r}; {hint}", file=sys.stderr)
    return 2


def _overview(known: dict[str, Any]) -> str:
    width = max(len(name) for name in known)
    lines = [f"  {name:<{width}}  {entry.load().summary}" for name, entry in sorted(known.items())]
    return "\n".join(
        [
            "Interp Workbench: open up language models.",
            "",
            "Commands:",
            *lines,
            "",
            "`workbench COMMAND --help` says more.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
