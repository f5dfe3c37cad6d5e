"""`workbench steer` and `workbench probe` as a person types them."""

import json

import pytest

from workbench.cli import probe, steer
from workbench.cli.main import run_command
from workbench.directions import Direction


def run(module, capsys, *arguments):
    name = module.__name__.rpartition(".")[2]
    status = run_command(name, module.command, [str(one) for one in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_concept_is_steered_by_and_its_direction_kept(capsys, tmp_path, tinytown):
    small = ("--n-prompts", 4, "--new-tokens", 4, "--tokens", 100)
    path = tmp_path / "glad.safetensors"
    status, out, _ = run(steer, capsys, "--concept", "glad", *small, "--doses", 0, 2, "--save", path)
    assert status == 0
    assert out.startswith("add glad at blocks.2.hook_resid_post, by mean")
    assert Direction.load(path, tinytown).name == "glad"
    status, out, _ = run(steer, capsys, "--direction", path, "--said", "Paris", *small, "--doses", 1, "--json")
    assert status == 0
    assert json.loads(out)["doses"] == [1.0]
    status, out, _ = run(steer, capsys, "--direction", path, "--how", "ablate", "--prompts", "Mary felt", *small)
    assert status == 0
    assert out.count("plain") == out.count("steered") == 1


def test_contrasts_from_a_file(capsys, tmp_path):
    path = tmp_path / "moods.jsonl"
    path.write_text('{"positive": "Mary felt happy", "negative": "Mary felt sad"}\n')
    for method in ("mean", "actadd"):
        status, out, _ = run(steer, capsys, "--contrast", path, "--method", method, "--prompts", "Then Mary and John")
        assert status == 0
        assert method in out


def test_probes_are_printed_and_kept(capsys, tmp_path, tinytown):
    status, out, _ = run(
        probe, capsys, "--concepts", "glad", "city", "--tokens", 5000, "--out", tmp_path, "--site", "hook_embed"
    )
    assert status == 0
    assert "of 2 concepts are linearly readable" in out
    assert {path.name for path in tmp_path.iterdir()} == {"probes.json", "glad.safetensors", "city.safetensors"}


@pytest.mark.parametrize("spans", [False, True])
def test_labels_of_ones_own(capsys, tmp_path, spans):
    path = tmp_path / "labels.jsonl"
    words = ("Mary", "Anna", "Emma", "John", "Paul", "Peter") * 3
    records = [{"text": f"Then {word} ran to the park"} for word in words]
    for word, record in zip(words, records, strict=True):
        kind = "woman" if word in words[:3] else "man"
        record |= {"spans": [[5, 5 + len(word), kind]]} if spans else {"label": kind}
    path.write_text("\n".join(map(json.dumps, records)))
    status, out, _ = run(probe, capsys, "--labels", path)
    assert status == 0
    assert "woman" in out


@pytest.mark.parametrize(
    ("module", "arguments", "status", "message"),
    [
        (steer, [], 2, "a direction comes from one of --concept, --contrast FILE and --direction FILE"),
        (steer, ["--concept", "glad", "--direction", "x"], 2, "a direction comes from one of"),
        (steer, ["--concept", "glad", "--method", "actadd"], 2, "--method actadd is a way to contrast two prompts"),
        (steer, ["--concept", "gald"], 1, "tinytown has no labels of 'gald'; did you mean 'glad'?"),
        (steer, ["--contrast", "none.jsonl"], 1, "No such file or directory: none.jsonl"),
        (steer, ["--direction", "none.safetensors"], 1, "none.safetensors is missing"),
        (steer, ["--concept", "glad", "--site", "blocks.7.hook_resid_post"], 1, "its layers are 0 to 3"),
        (probe, ["--concepts", "gald", "--tokens", "500"], 1, "no labels of 'gald'; did you mean 'glad'?"),
        (probe, ["--concepts", "negated", "--tokens", "100"], 1, "no label is in 5 documents of tinytown"),
        (probe, ["--folds", "1"], 2, "--folds must be 2 or more, not 1"),
        (probe, ["--labels", "none.jsonl"], 1, "No such file or directory: none.jsonl"),
        (probe, ["--site", "hook_nowhere"], 1, "this model has no site 'hook_nowhere'"),
    ],
)
def test_a_mistake_is_one_line(module, arguments, status, message, capsys):
    found, out, err = run(module, capsys, *arguments)
    assert (found, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1
