"""The command line: options from defaults, file and arguments; one line for a mistake; the right exit status."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch

from workbench.cli.command import Command
from workbench.cli.main import main, run_command, to_json
from workbench.errors import ModelError, SettingError
from workbench.tinytown import MODEL_DIR, SAE_DIR


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
    ("arguments", "line"),
    [
        (["--width", "3"], "Missing from workbench x: --out STR Where to. (required)"),
        (["--out", "x", "--width", "wide"], "Error parsing --width: invalid literal for int() with base 10: 'wide'"),
        (["--out", "x", "--widht", "1"], "Unrecognized options: --widht, 1 Perhaps you meant: --width INT How wide."),
        (["--out", "x", "y"], "Unrecognized options: y"),
        (["--out"], "Missing value for argument '--out'. Expected 1 values"),
    ],
)
def test_wrong_usage_is_one_line(capsys, arguments, line):
    assert run_command("x", COMMAND, arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"workbench: {line}")
    assert printed.err.endswith("; `workbench x --help` says more\n")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--out", ""], "workbench: --out is empty\n"),
        (["--out="], "workbench: --out is empty\n"),
        (["--out", "x", " "], "workbench: an argument is empty\n"),
        (["--out", "x", "--width", "9" * 20], f"workbench: --width must be less than 2^63, not {'9' * 20}\n"),
    ],
)
def test_what_the_parser_would_take_and_nothing_could_use(capsys, arguments, line):
    assert run_command("x", COMMAND, arguments) == 2
    assert capsys.readouterr().err == line


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit) as exit:
        run_command("x", COMMAND, ["--help"])
    assert exit.value.code == 0
    assert "How wide." in capsys.readouterr().out


@dataclass(frozen=True)
class OfEveryKind:
    """One option of each kind."""

    rate: float = 1.0
    width: int = 3
    deep: bool = False
    name: str = ""
    out: Path | None = None
    kind: Literal["a", "b"] | None = None
    sizes: Sequence[int] = ()


def show_all(options):
    return repr(tuple(vars(options).values()))


EVERY_KIND = Command("A test.", options=f"{__name__}:OfEveryKind", run=f"{__name__}:show_all")


def test_a_file_holds_every_kind_of_option(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("rate: 1e-3\nwidth: 4\ndeep: true\nname: n\nout: here\nkind: b\nsizes: [1, 2]\n")
    assert run_command("x", EVERY_KIND, ["--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{(0.001, 4, True, 'n', Path('here'), 'b', (1, 2))!r}\n"
    file.write_text("rate: 2\nout: null\nkind: null\n")
    assert run_command("x", EVERY_KIND, ["--config", str(file)]) == 0
    assert capsys.readouterr().out == f"{(2.0, 3, False, '', None, None, ())!r}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rate: fast", "rate must be a number, not 'fast'"),
        ("rate: true", "rate must be a number, not True"),
        ("width: 2.5", "width must be a whole number, not 2.5"),
        ("width: true", "width must be a whole number, not True"),
        ("width: null", "width must be a whole number, not None"),
        ("deep: 1", "deep must be true or false, not 1"),
        ("name: 3", "name must be text, not 3"),
        ("name: {a: 1}", "name must be text, not {'a': 1}"),
        ("out: [a]", "out must be a path, not ['a']"),
        ("out: ''", "out must be a path, not ''"),
        ("kind: c", "kind must be one of a, b, not 'c'"),
        ("sizes: 3", "sizes must be a list, not 3"),
        ("sizes: [a]", "sizes must be a list, each a whole number, not ['a']"),
    ],
)
def test_settings_of_the_wrong_kind_are_one_line(tmp_path, capsys, text, says):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert run_command("x", EVERY_KIND, ["--config", str(file)]) == 2
    assert capsys.readouterr().err == f"workbench: {file}: {says}\n"


SAE = str(SAE_DIR / "blocks.2.hook_resid_post")
TRAIN = "--tokens=2000 --passages=1000 --n-layers=1 --d-model=16 --n-heads=2 --d-mlp=8 --context=64"


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("sae eval SAE --device cuda:99", 1, "there is no device 'cuda:99' here; there is cpu"),
        (
            "sae train --site blocks.2.hook_resid_post --out o --device nonsense",
            1,
            "there is no device 'nonsense' here",
        ),
        ("sae train --site nowhere --out o", 1, "this model has no site 'nowhere'"),
        ("sae index SAE --batch-size 0", 1, "batch_size must be at least 1, not 0"),
        ("sae index SAE --context 0", 1, "context must be at least 2, not 0"),
        ("sae index SAE --shares 0", 1, "shares must be at least 1, not 0"),
        ("sae index SAE --tokens -1", 1, "tokens must be at least 1, not -1"),
        ("sae finetune nothing --out o", 1, "nothing is not the directory of an SAE"),
        ("sae bench --settings wrong.yaml", 1, "wrong.yaml: k must be a whole number, not 'five'"),
        ("app --no-open --sae full", 1, "--sae full is not the directory of an SAE: it has no cfg.json"),
        ("tinytown evaluate --examples 0", 2, "--examples must be at least 1, not 0"),
        ("tinytown evaluate --seed -1", 2, "--seed must be 0 or more, not -1"),
        ("tinytown train TRAIN --out o --learning-rate nan", 2, "--learning-rate must be above 0, not nan"),
        ("tinytown train TRAIN --out o --weight-decay -1", 2, "--weight-decay must be 0 or more, not -1.0"),
        ("tinytown train TRAIN --out .", 1, "--out names the directory for the model, which '.' does not"),
        ("tinytown train TRAIN --out full/..", 1, "--out names the directory for the model"),
        ("tinytown train TRAIN --out full", 1, "full holds thesis.tex, which is none of a model's files"),
        ("tinytown train TRAIN --out full/thesis.tex", 1, "--out must be a directory, and full/thesis.tex is a file"),
        ("tinytown train TRAIN --out full/thesis.tex/model", 1, "Not a directory"),
        ("heads --model broken", 1, "tokenizer.json is not valid JSON"),
    ],
)
def test_a_mistake_in_any_command_is_one_line_and_harms_nothing(tmp_path, monkeypatch, capsys, command, status, says):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "thesis.tex").write_text("years of work")
    Path("wrong.yaml").write_text("k: five")
    shutil.copytree(MODEL_DIR, "broken")
    Path("broken", "tokenizer.json").write_text('{"version":')
    assert main(command.replace("SAE", SAE).replace("TRAIN", TRAIN).split()) == status
    printed = capsys.readouterr()
    assert printed.err.startswith("workbench: ")
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "full", "wrong.yaml"]
    assert Path("full", "thesis.tex").read_text() == "years of work"


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
