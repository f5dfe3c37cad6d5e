"""`workbench neurons` and `workbench attention`: what is printed, JSON, and one line for every mistake."""

import json

import pytest

from workbench.cli import attention, neurons
from workbench.cli.main import run_command

PROMPT = "When Mary and John went to the store , John gave a drink to"


def run(capsys, name: str, *arguments: str) -> tuple[int, str, str]:
    status = run_command(name, {"neurons": neurons, "attention": attention}[name].command, list(arguments))
    out, err = capsys.readouterr()
    return status, out, err.strip()


def test_attention_on_a_prompt(capsys):
    status, out, _ = run(capsys, "attention", PROMPT)
    assert status == 0
    assert "Where 'to' (position 14) looks most" in out
    assert "after layer 3" in out


def test_heads_by_a_score(capsys):
    status, out, _ = run(capsys, "attention", "--score", "copying", "--json")
    result = json.loads(out)
    assert (status, result["name"], len(result["values"])) == (0, "copying", 4)
    status, out, _ = run(capsys, "attention", "--score", "induction")
    assert out.splitlines()[1].split()[0].startswith("L1H")


def test_one_head(capsys):
    status, out, _ = run(capsys, "attention", "--head", "L1H1", "--top", "2")
    assert status == 0
    assert all(part in out for part in ("QK circuit of L1H1", "OV circuit of L1H1", "OV spectrum of L1H1"))


def test_composition(capsys):
    status, out, _ = run(capsys, "attention", "--composition")
    assert status == 0
    assert "L0H0 → L1H0" in out


def test_neurons_listed_and_one_in_full(capsys):
    arguments = ("--layer", "2", "--tokens", "3000", "--top", "3")
    status, out, _ = run(capsys, "neurons", *arguments)
    assert status == 0
    assert out.count("agrees") == 3
    status, out, _ = run(capsys, "neurons", *arguments, "--neuron", "66", "--json")
    page = json.loads(out)
    assert (status, page["neuron"], len(page["promoted"]), len(page["triggers"])) == (0, 66, 3, 3)
    status, out, _ = run(capsys, "neurons", *arguments, "--neuron", "66", "--maximise")
    assert (status, len(out.strip().splitlines())) == (0, 2)


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("attention", 2, "give one of: a prompt, --score, --head, --composition, --routers"),
        ("attention --head foo", 2, "write L1H2 or 1.2"),
        ("attention --head 1.9", 1, "tinytown has no head 9; its heads are 0 to 3"),
        ("attention --head 7.0", 1, "tinytown has no layer 7; its layers are 0 to 3"),
        ("attention --head 1.1 --offset 500", 1, "an offset lies between 0 and 127"),
        ("attention --score copyng", 1, "no score 'copyng'; heads have previous_token"),
        ("attention --routers", 1, "tinytown is not a mixture of experts"),
        ("attention --model nowhere/to-be-found --composition", 1, "not found"),
        ("neurons --layer 9", 1, "tinytown has no layer 9; its layers are 0 to 3"),
        ("neurons --neuron 999 --tokens 500", 1, "layer 0 has no neuron 999; its neurons are 0 to 383"),
        ("neurons --maximise", 2, "--maximise takes --neuron"),
        ("neurons --top 0", 2, "--top and --tokens must be at least 1"),
        ("neurons --corpus nothing.txt", 1, "there is no file nothing.txt"),
    ],
)
def test_a_mistake_gets_one_line(capsys, command: str, status: int, message: str):
    name, *arguments = command.split()
    result, out, err = run(capsys, name, *arguments)
    assert (result, out) == (status, "")
    assert message in err
    assert len(err.splitlines()) == 1
