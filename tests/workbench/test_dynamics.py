"""Checkpoints in order, measured as one by one, once."""

import json
import shutil

import pytest
import torch

from tests.checkpoints import save_checkpoint
from workbench import dynamics as module
from workbench.checkpoint_study import CheckpointStudy
from workbench.cli.dynamics import command
from workbench.cli.main import run_command
from workbench.corpus import open_corpus
from workbench.dynamics import Rise, dynamics, find_checkpoints, rise
from workbench.errors import DamagedFile, SettingError
from workbench.figures import dynamics as figures
from workbench.heads import head_scores
from workbench.in_context import in_context
from workbench.model import load_model
from workbench.prompts import read_pairs
from workbench.tinytown import MODEL_DIR
from workbench.tinytown.options import TrainOptions
from workbench.tinytown.training import Step, keep_checkpoints, train_model

PAIR = {"clean": "the cat", "corrupted": "the the", "answer": "a", "distractor": "b"}


@pytest.fixture
def home(tmp_path, architecture):
    for seed, step in enumerate((2, 10, 1)):
        save_checkpoint(tmp_path / f"step-{step}", architecture, seed)
    (tmp_path / "notes").mkdir()
    (tmp_path / "text.txt").write_text("\n\n".join(["The cat sat on the mat, and the dog ran after the cat."] * 9))
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"clean": "a cat"}) + "\n")
    return tmp_path


@pytest.fixture
def study(home):
    return CheckpointStudy(
        corpus=str(home / "text.txt"), contexts=4, context=16, tasks=(str(home / "pairs.jsonl"),), sequences=2, seed=3
    )


def test_each_checkpoint_is_measured_as_it_is_alone(home, study):
    result = dynamics([str(home / "*")], study)
    assert result.at == [1, 2, 10]
    assert result.unit == "steps"
    for snapshot in result.snapshots:
        model = load_model(home / snapshot.name)
        learning = in_context(model, open_corpus(study.corpus, model.tokenizer, context=16, seed=3), contexts=4)
        heads = head_scores(model, batch=2, seed=3)
        assert (snapshot.loss, snapshot.in_context) == (learning.mean_loss, learning.score)
        assert (snapshot.first_loss, snapshot.second_loss) == (heads.first_loss, heads.second_loss)
        assert snapshot.induction == heads.induction.tolist()
        right = sum(
            (model.run(pairs.clean).logits[:, -1] @ _towards(pairs, model)).diagonal().gt(0).sum().item()
            for pairs in read_pairs(home / "pairs.jsonl", model)
        )
        assert snapshot.tasks == {study.tasks[0]: right / 2}
    assert torch.equal(result.curve("induction"), result.heads("induction").amax((1, 2)))
    assert len({snapshot.loss for snapshot in result.snapshots}) == 3


def _towards(pairs, model):
    """One column a pair: +1 at its answer, -1 at its distractor."""
    towards = torch.zeros(model.info.d_vocab, len(pairs))
    towards[pairs.answers, torch.arange(len(pairs))] += 1
    towards[pairs.distractors, torch.arange(len(pairs))] -= 1
    return towards


@pytest.fixture
def three(tmp_path):
    """A pattern for three checkpoints, a study of them, and the file that keeps it."""
    for seed, step in enumerate((2, 10, 1)):
        save_checkpoint(tmp_path / "run" / f"step-{step}", "llama", seed)
    (tmp_path / "text.txt").write_text("\n\n".join(["The cat sat on the mat, and the dog ran after the cat."] * 9))
    return (
        [f"{tmp_path}/run/*"],
        CheckpointStudy(corpus=str(tmp_path / "text.txt"), contexts=4, context=16),
        tmp_path / "log",
    )


def counted(monkeypatch):
    """The names of the checkpoints that are loaded from now on."""
    loaded = []
    monkeypatch.setattr(module, "load_model", lambda path: loaded.append(path.name) or load_model(path))
    return loaded


def test_what_was_measured_is_not_measured_again(three, monkeypatch):
    patterns, study, log = three
    loaded = counted(monkeypatch)
    first = dynamics(patterns, study, log=log)
    assert loaded == ["step-1", "step-2", "step-10"]
    again = dynamics(patterns, study, log=log)
    assert again == first
    assert loaded == ["step-1", "step-2", "step-10"]
    with log.open("a") as file:
        file.write('{"key": "trunc')  # a process killed while it wrote
    assert dynamics(patterns, study, log=log) == first


def test_what_has_changed_is_measured_again(three, monkeypatch):
    patterns, study, log = three
    dynamics(patterns, study, log=log)
    loaded = counted(monkeypatch)
    run = log.parent / "run"
    save_checkpoint(run / "step-2", "llama", seed=7)
    shutil.copytree(run / "step-1", run / "step-20")
    result = dynamics(patterns, study, log=log)
    assert loaded == ["step-2", "step-20"]
    assert result.at == [1, 2, 10, 20]
    assert result.snapshots[3].loss == result.snapshots[0].loss
    (log.parent / "text.txt").write_text("\n\n".join(["Where is the café? It is near the old stone bridge."] * 9))
    dynamics(patterns, study, log=log)
    assert loaded[2:] == ["step-1", "step-2", "step-10", "step-20"]


def test_a_study_broken_off_keeps_what_it_has(three, monkeypatch, capsys):
    patterns, study, log = three

    def stop_at(path):
        if path.name == "step-10":
            raise KeyboardInterrupt
        return load_model(path)

    arguments = ["--checkpoints", *patterns, "--corpus", study.corpus, "--contexts", "4", "--context", "16"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_model", stop_at)
        assert run_command("dynamics", command, [*arguments, "--out", str(log)]) == 1
    printed = capsys.readouterr().err
    assert printed == f"workbench: interrupted; {log} keeps what was measured, and the same command goes on\n"
    loaded = counted(monkeypatch)
    figure = log.with_suffix(".html")
    assert run_command("dynamics", command, [*arguments, "--out", str(log), "--figure", str(figure)]) == 0
    assert loaded == ["step-10"]
    assert capsys.readouterr().out.split()[0] == "steps"
    assert "in-context learning" in figure.read_text()


def test_a_log_of_something_else_is_refused(three):
    patterns, study, log = three
    dynamics(patterns, study, log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({"key": line["key"], "loss": 1.0}) + "\n" for line in lines))
    with pytest.raises(DamagedFile, match="is not the log of such a study"):
        dynamics(patterns, study, log=log)


def test_checkpoints_are_found_in_the_order_of_their_numbers(tmp_path):
    for name in ("tokens-9", "tokens-10", "v2-tokens-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert [place.path.name for place in find_checkpoints([f"{tmp_path}/*"])] == [
        "v2-tokens-1",
        "tokens-9",
        "tokens-10",
    ]
    assert {place.unit for place in find_checkpoints([f"{tmp_path}/*"])} == {"tokens"}
    (tmp_path / "step-10").mkdir()
    (tmp_path / "step-10" / "config.json").write_text("{}")
    with pytest.raises(SettingError, match=r"step-10 and .*tokens-10 have the same number"):
        find_checkpoints([f"{tmp_path}/*"])
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.json").write_text("{}")
    with pytest.raises(SettingError, match="says how far the training was"):
        find_checkpoints([f"{tmp_path}/final"])
    with pytest.raises(SettingError, match="no model directory at"):
        find_checkpoints([f"{tmp_path}/none*"])


def test_a_rise_is_where_a_curve_goes_from_a_tenth_to_nine_tenths():
    at = [0, 10, 20, 30, 40, 50]
    assert rise(at, torch.tensor([1.0, 1.05, 1.2, 1.7, 1.95, 2.0])) == Rise(10, 40)
    assert rise(at, torch.tensor([0.0, 0.1, -0.2, -3.0, -2.9, -2.8])) == Rise(20, 30)
    assert rise(at, torch.ones(6)) is None
    assert rise(at[:2], torch.tensor([0.0, 1.0])) is None


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--tasks", "walking"], 1, "'walking' is neither a file of prompt pairs nor a task: ioi, "),
        (["--tasks", "ioi"], 1, "has not Tinytown's vocabulary, so that task ioi is not for it"),
        (["--corpus", "tinytown"], 1, "the tinytown corpus fits only models with its vocabulary"),
        (["--sequences", "0"], 2, "sequences must be at least 1, not 0"),
        (["--contexts", "0"], 2, "contexts must be at least 2, not 0"),
        (["--context", "1"], 1, "context must be at least 2 tokens, not 1"),
        (["--context", "1000"], 1, "contexts of 1000 tokens; this model takes at most 64"),
        (["--seed", "-1"], 2, "seed must be at least 0, not -1"),
        (["--figure", "a.png"], 2, "--figure is an .html or .json file, not a.png"),
    ],
)
def test_mistakes_are_one_line(three, capsys, arguments, status, says):
    patterns, study, _ = three
    given = ["--checkpoints", *patterns, "--corpus", study.corpus, *arguments]
    assert run_command("dynamics", command, given) == status
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_figures_have_a_panel_for_tasks_only_if_there_are_some(three):
    patterns, study, log = three
    plain = dynamics(patterns, study, log=log)
    assert len(figures.curves(plain).layout.annotations) == 3
    pairs = log.with_suffix(".jsonl")
    pairs.write_text(json.dumps(PAIR) + "\n")
    both = dynamics(patterns, CheckpointStudy(**vars(study) | {"tasks": (str(pairs),)}), log=log)
    assert len(figures.curves(both).layout.annotations) == 4
    drawn = [trace.name for trace in figures.curves(both).data if trace.showlegend is not False]
    assert drawn[-1] == "log"
    assert "task log" in str(both)


SMALL = {"n_layers": 1, "n_heads": 2, "d_model": 16, "d_mlp": 16, "tokens": 5_000, "passages": 5_000, "context": 64}


def test_keeping_checkpoints_does_not_change_the_training(tmp_path):
    plain = train_model(TrainOptions(out=str(tmp_path / "a"), **SMALL), lambda *_: None)
    options = TrainOptions(out=str(tmp_path / "b"), **SMALL, checkpoints=(0, 600, 900, 5_000))
    stale = tmp_path / "b-checkpoints" / "tokens-77"
    stale.mkdir(parents=True)
    keep, losses = keep_checkpoints(options), []

    def on_step(step: Step, model: object) -> None:
        losses.append(step.loss)
        keep(step, model)

    kept = train_model(options, on_step)
    assert all(torch.equal(weight, kept.state_dict()[name]) for name, weight in plain.state_dict().items())
    assert len(losses) == 11
    places = find_checkpoints([f"{tmp_path}/b-checkpoints/*"])
    assert [place.at for place in places] == [0, 1024, 5120]
    last = load_model(places[-1].path)
    tokens = torch.arange(20)
    with torch.no_grad():
        torch.testing.assert_close(last.run(tokens).logits, kept.cpu()(tokens[None]).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(SettingError, match="--checkpoints must be between 0 and --tokens"):
        TrainOptions(out="x", checkpoints=(-1,))


def test_the_bundled_model_as_a_checkpoint(tmp_path):
    shutil.copytree(MODEL_DIR, tmp_path / "tokens-10000000")
    study = CheckpointStudy(contexts=16, tasks=("ioi", "agreement"), examples=40, sequences=2)
    (snapshot,) = dynamics([f"{tmp_path}/tokens-*"], study).snapshots
    assert min(snapshot.tasks.values()) > 0.9  # its card says 99.0% and 99.8%
    assert snapshot.second_loss < 0.2
    assert snapshot.in_context < -1
