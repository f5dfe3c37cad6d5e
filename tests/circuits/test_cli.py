"""`workbench circuit find`, `score` and `show` as a person types them."""

import json
from dataclasses import replace

import pytest
import torch

from circuits import cli, survey
from circuits.circuit import load_circuit
from circuits.discovery import how_many, load_discovery
from circuits.experiment import Experiment
from circuits.faithfulness import measure, recovered
from circuits.held_out import digests, halves, without
from circuits.methods import METHODS, acdc_scores, node_scores, random_scores, score_edges
from circuits.options import FindOptions
from circuits.scores.nodes import between_nodes, node_attribution
from circuits.scores.result import load_scores
from circuits.tasks.registry import TASKS, task_named
from workbench.cli.main import run_command
from workbench.errors import SettingError
from workbench.prompts import PromptPairs

SMALL = ("--examples", 12)


def run(name, capsys, *arguments):
    status = run_command(f"circuit {name}", getattr(cli, name), [str(one) for one in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture(scope="module")
def found(tmp_path_factory, tinytown):
    """A circuit of IOI that `find` wrote."""
    path = tmp_path_factory.mktemp("circuits") / "ioi"
    arguments = ["--task", "ioi", "--method", "eap-ig", "--out", path, *SMALL]
    assert run_command("circuit find", cli.find, [str(one) for one in arguments]) == 0
    return path


def test_what_is_written_is_what_was_measured(found, tinytown):
    assert {path.name for path in found.iterdir()} == {"circuit.json", "scores.safetensors", "evaluation.json"}
    circuit, loaded = load_circuit(found / "circuit.json"), load_discovery(found)
    scores = load_scores(found / "scores.safetensors")
    n_edges = int(0.1 * circuit.graph.n_edges)
    assert circuit.edges.equal(scores.circuit(n_edges, "signed").edges)
    # the faithfulness of this circuit on the same held-out prompts, computed again
    task = task_named("ioi", tinytown)
    used, held_out = halves(task.prompts(tinytown, 24, seed=0))
    experiment = Experiment(tinytown, held_out, task.metric)
    values, _ = measure(experiment, circuit.edges)
    assert loaded.evaluation.f == pytest.approx(float(recovered(experiment, values)), abs=1e-5)
    examples = loaded.evaluation.examples
    assert sum(one.f for one in examples) / len(examples) == pytest.approx(loaded.evaluation.f, abs=1e-5)
    assert [one.f for one in examples] == sorted(one.f for one in examples)
    assert loaded.found_on == tuple(digests(used))
    rows = {tuple(row) for group in used for row in group.clean.tolist()}
    assert not rows & {tuple(row) for group in held_out for row in group.clean.tolist()}


def test_ten_percent_of_edges_do_the_task(found):
    loaded = load_discovery(found)
    assert loaded.evaluation.f > 0.85
    assert loaded.circuit.n_edges <= 0.1 * loaded.circuit.n_possible
    assert loaded.curves.cmd < 0.1 < 0.6 < loaded.random.cmd
    assert loaded.evaluation.baseline.interval[1] < 0.5
    assert "faithfulness" in str(loaded)


def test_a_task_that_the_model_cannot_do_is_said_to_be_one(found):
    evaluation = load_discovery(found).evaluation
    assert 0 < evaluation.gap_error < (evaluation.clean - evaluation.ablated) / 5
    assert "f says little" not in str(evaluation)
    assert "f says little" in str(replace(evaluation, ablated=evaluation.clean - evaluation.gap_error))


def test_show_writes_a_page_without_the_model(found, capsys, tmp_path):
    page = tmp_path / "page.html"
    status, out, _ = run("show", capsys, found, "--out", page)
    assert (status, out) == (0, f"Wrote {page}\n")
    html = page.read_text(encoding="utf-8")
    loaded = load_discovery(found)
    assert loaded.evaluation.examples[0].prompt in html
    assert "The circuit" in html
    assert "src=" not in html.partition('<script type="application/json"')[0]


def test_prompts_of_ones_own(capsys, tmp_path, found):
    path = tmp_path / "mine.jsonl"
    names = ("Mary", "Anna", "John", "Paul")
    text = "Then {} and {} went to the park . {} gave the book to"
    records = [
        {"clean": text.format(a, b, b), "corrupted": text.format(a, b, a), "answer": a, "distractor": b}
        for a in names
        for b in names
        if a != b
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    arguments = ("--task", path, "--method", "eap", "--edges", 20, "--ablation", "mean", "--absolute")
    status, out, _ = run("find", capsys, *arguments, "--json", "--out", tmp_path / "mine")
    assert status == 0
    value = json.loads(out)
    assert (value["facts"]["ablation"], value["facts"]["ranking"], value["facts"]["n_edges"]) == (
        "mean",
        "absolute",
        20,
    )
    assert len(value["evaluation"]["examples"]) == 6
    status, out, _ = run("score", capsys, found, "--task", path, "--json")
    assert status == 0
    value = json.loads(out)
    assert (value["prompts"], value["left_out"], len(value["evaluation"]["examples"])) == (path.stem, 0, 12)
    assert value["evaluation"]["f"] > 0.85
    assert value["minimality"][0].keys() == {"node", "difference", "without"}
    assert len(value["completeness"]["sets"]) == 13
    status, out, _ = run("score", capsys, tmp_path / "mine", "--json")  # its own file, less what it was found on
    value = json.loads(out)
    assert (value["left_out"], len(value["evaluation"]["examples"])) == (6, 6)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("masks", "acdc")])
def test_every_method_scores_existing_edges_only(method, tinytown):
    experiment = Experiment(tinytown, task_named("ioi", tinytown).prompts(tinytown, 8))
    scores = score_edges(experiment, method, n_edges=40)
    assert scores.values[~experiment.graph.edges].abs().max() == 0
    assert scores.values.abs().max() > 0


def test_the_first_edges_by_nodes_join_the_first_nodes(experiment):
    effects = node_attribution(experiment, steps=5).values[1:].abs()
    chosen = torch.zeros(len(effects) + 1, dtype=torch.bool)
    chosen[0] = True
    chosen[1 + effects.topk(2).indices] = True
    wanted = between_nodes(experiment.graph, chosen)
    assert node_scores(experiment).top(int(wanted.sum())).equal(wanted)


def test_acdc_scores_fall_with_the_threshold(or_gate):
    scores = acdc_scores(or_gate, thresholds=(0.01, 2.0))
    names = scores.graph.names(scores.values > 0)
    assert "b0.0->output" in names or "b0.1->output" in names
    assert not (scores.values == 2).any()  # more harm than ablating everything does


def test_random_scores_are_of_their_seed(experiment):
    assert random_scores(experiment, 1).values.equal(random_scores(experiment, 1).values)
    assert not random_scores(experiment, 1).values.equal(random_scores(experiment, 2).values)


def test_halves_hold_nothing_twice():
    clean = torch.tensor([[1, 2], [1, 2], [3, 4], [5, 6], [7, 8]])
    ids = torch.arange(5)
    first, second = halves([PromptPairs("x", clean, clean, ids, ids)])
    assert first[0].answers.tolist() == [0, 3]
    assert second[0].answers.tolist() == [2, 4]


def test_what_was_used_is_left_out():
    ids = torch.arange(4)
    corrupted = torch.tensor([[0], [0], [1], [0]])
    group = PromptPairs("x", torch.tensor([[1], [2], [2], [1]]), corrupted, ids, ids)
    assert without([group])[0].answers.tolist() == [0, 1, 2]
    assert without([group], digests([group[:2]]))[0].answers.tolist() == [2]
    assert without([group], digests([group])) == []


def test_a_circuit_is_not_scored_on_prompts_that_it_was_found_on(capsys, tmp_path):
    """The seed that it was found with draws the prompts that it was found on, and those that were held out."""
    path = tmp_path / "one-sentence"
    arguments = ("--sentence", 3, "--method", "eap", "--edges", 20, *SMALL, "--out", path)
    assert run("find", capsys, *arguments)[0] == 0
    status, out, _ = run("score", capsys, path, "--seed", 0, "--examples", 24, "--json")
    assert status == 0
    value, loaded = json.loads(out), load_discovery(path)
    held_out = {one.prompt for one in loaded.evaluation.examples}
    assert {one["prompt"] for one in value["evaluation"]["examples"]} == held_out
    assert value["left_out"] == len(loaded.found_on)
    assert value["evaluation"]["f"] == pytest.approx(loaded.evaluation.f, abs=1e-5)


def test_a_survey_that_was_broken_off_goes_on(capsys, tmp_path, monkeypatch):
    arguments = ("--tasks", "succession", "brackets", "--method", "eap", "--examples", 8, "--out", tmp_path / "all")
    whole, searched = survey.discover, []

    def one_then_interrupted(model, task, *rest, **settings):
        if searched:
            raise KeyboardInterrupt
        searched.append(task.name)
        return whole(model, task, *rest, **settings)

    monkeypatch.setattr(survey, "discover", one_then_interrupted)
    status, out, err = run("survey", capsys, *arguments)
    assert (status, out, searched) == (1, "", ["tinytown.succession"])
    assert "interrupted" in err
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"survey.json", "tinytown.succession"}
    monkeypatch.setattr(
        survey, "discover", lambda model, task, *rest, **settings: whole(model, task, *rest, **settings)
    )
    written = (tmp_path / "all" / "tinytown.succession" / "circuit.json").stat().st_mtime_ns
    status, out, _ = run("survey", capsys, *arguments)
    assert status == 0
    assert [line.split()[0] for line in out.split("\n")[2:4]] == ["tinytown.succession", "tinytown.brackets"]
    assert (tmp_path / "all" / "tinytown.succession" / "circuit.json").stat().st_mtime_ns == written
    assert load_discovery(tmp_path / "all" / "tinytown.brackets").circuit.facts["asked"] == "brackets"
    status, _, err = run("survey", capsys, *arguments, "--edges", 0.2)
    assert (status, "another edges: 0.1, not 0.2" in err) == (1, True)


def test_a_survey_is_of_what_the_model_speaks(tinytown, hooked):
    assert survey.tasks_of(tinytown) == survey.TINYTOWN
    assert survey.tasks_of(hooked("gpt2")) == survey.ENGLISH
    assert len(survey.TINYTOWN) + len(survey.ENGLISH) == len(TASKS)


def test_a_task_without_words_is_noted(hooked, tmp_path):
    with pytest.raises(SettingError, match=r"no circuit of any task was found in .*; ioi: "):
        survey.survey(hooked("gpt2"), ["ioi"], "eap", out=tmp_path / "none", n=4)


def test_edges_by_position(capsys, tmp_path):
    """Found, saved, loaded, scored and shown."""
    path = tmp_path / "by-position"
    arguments = ("--by-position", "--sentence", 3, "--method", "eap", "--edges", 0.05, *SMALL, "--out", path)
    status, out, _ = run("find", capsys, *arguments)
    assert status == 0
    assert "479 at each of 14 positions" in out
    loaded = load_discovery(path)
    assert loaded.circuit.edges.shape == loaded.scores.values.shape == (14, *loaded.circuit.graph.edges.shape)
    assert loaded.circuit.facts["positions"][:5] == ["<bos>", "After", "IO", "and", "S1"]
    assert loaded.evaluation.f > 0.85
    assert loaded.evaluation.baseline.interval[1] < 0.2
    status, out, _ = run("score", capsys, path, "--examples", 6)
    assert (status, "sentence 3" in out) == (0, True)
    assert run("show", capsys, path)[0] == 0
    assert "At each position" in (path / "report.html").read_text(encoding="utf-8")


def test_a_share_or_a_number():
    assert how_many(0.1, 479) == 47
    assert how_many(1, 479) == 479
    assert how_many(60, 479) == 60
    for wrong in (0.001, 480):
        with pytest.raises(SettingError, match="479 edges"):
            how_many(wrong, 479)
    with pytest.raises(SettingError, match="whole number"):
        FindOptions(edges=2.5)


def test_mistakes_get_one_line(found, capsys, tmp_path, hooked, checkpoint):
    wrong = {
        ("find", "--task", "ioy"): "the tasks are ioi,",
        ("find", "--method", "eapp"): "eap-ig",
        ("find", "--edges", "0"): "above 0",
        (
            "find",
            "--by-position",
        ): "not mean the same in the 16 sentences of tinytown.ioi; take one of them, --sentence 1",
        ("find", "--sentence", "17"): "its sentences are 1 to 16",
        ("find", "--by-position", "--sentence", "1", "--method", "exact"): "these methods do: eap,",
        ("survey", "--out", found): "is already there",
        ("survey", "--out", tmp_path / "new", "--tasks", "ioy"): "the tasks are ioi,",
        ("find", "--out", found): "is already there",
        ("show", tmp_path): "holds no circuit; `workbench circuit find",
        ("score", tmp_path): "holds no circuit",
        ("score", found, "--model", checkpoint("llama")): "fingerprint",
    }
    for (name, *arguments), expected in wrong.items():
        status, out, err = run(name, capsys, *arguments)
        assert status in (1, 2), (name, arguments)
        assert out == ""
        assert expected in err
        assert len(err.strip().split("\n")) == 1


def test_nothing_is_left_of_a_directory_that_could_not_be_written(found, tmp_path, monkeypatch):
    loaded = load_discovery(found)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("circuits.discovery.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        loaded.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
