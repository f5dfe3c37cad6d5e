"""The rules of the house: style, who may import whom, lazy imports, no pickles."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("workbench", "saes", "circuits", "app")


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("check", [("check",), ("format", "--check")])
def test_ruff_finds_nothing(check):
    result = run(sys.executable, "-m", "ruff", *check, ".")
    assert result.returncode == 0, result.stdout + result.stderr


def test_rooms_import_only_what_they_may():
    result = run(sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_commands_import_nothing_heavy():
    code = (
        "import sys; from importlib.metadata import entry_points\n"
        "commands = [entry.load() for entry in entry_points(group='workbench.commands')]\n"
        "options = [command.load_options() for command in commands]\n"
        "heavy = {'torch', 'transformers', 'dash', 'plotly', 'duckdb', 'numpy'} & set(sys.modules)\n"
        "print(len(options), *heavy)"
    )
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    count, *heavy = result.stdout.split()
    assert int(count) >= 9
    assert heavy == []


FOREIGN_CODE = (
    r"import pickle",
    r"pickle\.loads?\(",
    r"torch\.load\(",
    r"trust_remote_code\s*=\s*True",
    r"shell=True",
)


@pytest.mark.parametrize("pattern", FOREIGN_CODE)
def test_no_code_that_could_run_foreign_code(pattern):
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(sources) > 50
    assert [path for path in sources if re.search(pattern, path.read_text(encoding="utf-8"))] == []
