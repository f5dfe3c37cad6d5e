"""The command line: options from defaults, file and arguments; one line for a mistake; the right exit status."""

import errno
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from workbench.cli.command import Command
from workbench.cli.main import main, run_command, to_json
from workbench.errors import ModelError, SettingError


@dataclass(frozen=True)
class Options:
    """Options of a command made for these tests."""

    out: str
    """Where to."""
    width: int = 3
    """How wide."""
    names: tuple[str, ...] = field(default=())
    """Which."""

    def __post_init__(self):
        if self.width < 1:
            raise SettingError(f"--width must be at least 1, not {self.width}")


@dataclass(frozen=True)
class WithPath:
    """Options with a path."""

    out: Path
    """Where to."""


def show(options):
    return repr(options.out)


def test_a_path_in_the_file_is_a_path(tmp_path, capsys, recwarn):
    (tmp_path / "run.yaml").write_text("out: here/there\n")
    command = Command("A test.", options=f"{__name__}:WithPath", run=f"{__name__}:show")
    assert run_command("x", command, ["--config", str(tmp_path / "run.yaml")]) == 0
    assert capsys.readouterr().out == f"{Path('here/there')!r}\n"
    assert [str(warning.message) for warning in recwarn if "tyro" in str(warning.filename)] == []


@dataclass(frozen=True)
class Result:
    options: Options
    numbers: torch.Tensor

    def __str__(self):
        return f"{self.options.out} {self.options.width}"


def act(options):
    if options.out == "nowhere":
        raise ModelError("no such model; try another")
    if options.out == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/x")
    return Result(options, torch.tensor([1.0, 2.0]))


COMMAND = Command("A test.", options=f"{__name__}:Options", run=f"{__name__}:act")


def test_options_come_from_arguments_over_file_over_defaults(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text("out: here\nwidth: 5\n")
    assert run_command("x", COMMAND, ["--config", str(config)]) == 0
    assert capsys.readouterr().out == "here 5\n"
    assert run_command("x", COMMAND, ["--config", str(config), "--width", "7"]) == 0
    assert capsys.readouterr().out == "here 7\n"


def test_json_is_the_result(capsys):
    assert run_command("x", COMMAND, ["--out", "here", "--json", "--names", "a", "b"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"options": {"out": "here", "width": 3, "names": ["a", "b"]}, "numbers": [1.0, 2.0]}
    assert to_json({1: float("inf")}) == {"1": float("inf")}


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--out", "nowhere"], 1, "workbench: no such model; try another\n"),
        (["--out", "full"], 1, "workbench: No space left on device: /disk/x\n"),
        (["--out", "here", "--width", "0"], 2, "workbench: --width must be at least 1, not 0\n"),
        (["--config"], 2, "workbench: --config needs the path of a YAML file\n"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, status, line):
    assert run_command("x", COMMAND, arguments) == status
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", line)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("widht: 4", "unknown setting 'widht'; did you mean 'width'?"),
        ("- 4", "must hold `name: value` lines"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_wrong_configuration_file_is_one_line(tmp_path, capsys, text, words):
    (tmp_path / "run.yaml").write_text(text)
    assert run_command("x", COMMAND, ["--config", str(tmp_path / "run.yaml")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--width", "3"], ["--out", "x", "--width", "wide"], ["--out", "x", "--depth", "1"]]
)
def test_wrong_usage_has_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        run_command("x", COMMAND, arguments)
    assert exit.value.code == 2


def test_unknown_commands_are_named_with_the_nearest(capsys):
    assert main(["sae", "trian"]) == 2
    assert capsys.readouterr().err == "workbench: no command 'sae trian'; did you mean `workbench sae train`?\n"
    assert main(["--help"]) == 0
    assert "tinytown sample" in capsys.readouterr().out


def test_a_real_command_runs_as_a_process():
    command = [sys.executable, "-m", "workbench.cli.main", "tinytown", "sample", "--documents", "2", "--seed", "3"]
    one, again = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert one == again
    assert len(one.splitlines()) == 2
