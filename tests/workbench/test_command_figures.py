"""`--figure`: every command whose result can be drawn draws it, after printing it."""

import json
from importlib.metadata import entry_points

import pytest

from workbench.cli.main import GROUP, run_command

COMMANDS = {entry.name.replace(".", " "): entry for entry in entry_points(group=GROUP)}
PROMPT = "When Mary and John went to the store , John gave a drink to"


def run(name: str, *arguments: object) -> int:
    return run_command(name, COMMANDS[name].load(), [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("name", "arguments", "figures"),
    [
        ("ablate", ("--examples", 4), 1),
        ("attention", (PROMPT,), 2),
        ("attention", ("--head", "L1H1"), 3),
        ("attention", ("--composition",), 3),
        ("attention", ("--score", "copying"), 1),
        ("attribute", ("--task", "ioi", "--examples", 4, "--by", "head"), 1),
        ("attribute", ("--task", "ioi", "--examples", 4, "--by", "layer"), 1),
        ("attribute", ("--task", "ioi", "--examples", 4, "--by", "neuron"), 1),
        ("attribute", (PROMPT, "--answer", "Mary", "--by", "token", "--steps", 8), 1),
        ("heads", ("--batch", 1), 3),
        ("lens", (PROMPT,), 1),
        ("neurons", ("--neuron", 3, "--tokens", 500), 1),
        ("patch", ("--examples", 4), 1),
        ("patch", ("--examples", 4, "--method", "both"), 1),
        ("patchscopes", (PROMPT, "The cat"), 1),
        ("probe", ("--concepts", "country", "--tokens", 3000, "--folds", 2), 1),
        ("steer", ("--concept", "country", "--doses", 1, "--n-prompts", 2, "--new-tokens", 2, "--tokens", 200), 1),
    ],
)
def test_a_result_is_printed_and_drawn(tmp_path, capsys, name, arguments, figures):
    path = tmp_path / "drawn.html"
    assert run(name, *arguments, "--figure", path) == 0
    assert capsys.readouterr().out.strip()
    data = path.read_text().partition('<script type="application/json" id="figures">')[2].partition("</script>")[0]
    drawn = json.loads(data.replace("<\\/", "</"))["figures"]
    assert len(drawn) == figures
    assert all(one["data"] and one["layout"]["meta"]["title"] and one["layout"]["height"] for one in drawn)


def test_a_single_figure_is_also_plotlys_json(tmp_path, capsys):
    path = tmp_path / "lens.json"
    assert run("lens", PROMPT, "--figure", path) == 0
    assert json.loads(path.read_text())["data"]


@pytest.mark.parametrize(
    ("name", "arguments", "status", "says"),
    [
        ("lens", (PROMPT, "--figure"), 2, "--figure needs an .html or .json file"),
        ("lens", (PROMPT, "--figure", "lens.png"), 2, "--figure is an .html or .json file, not lens.png"),
        ("tinytown sample", ("--figure", "a.html"), 2, "Unrecognized options: --figure"),
        ("heads", ("--batch", 1, "--figure", "heads.json"), 1, "this result has 3 figures, and a .json holds one"),
        ("neurons", ("--tokens", 500, "--figure", "all.html"), 1, "only the page of one neuron is drawn"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(tmp_path, monkeypatch, capsys, name, arguments, status, says):
    monkeypatch.chdir(tmp_path)
    assert run(name, *arguments) == status
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert bool(printed.out) == (status == 1)
    assert not list(tmp_path.iterdir())
