"""Trainings in a directory: broken off, gone on with, read, reported; and one that groks."""

import json
import os
import shlex
import signal
from pathlib import Path

import pytest
import torch

from workbench.cli.grokking import command
from workbench.cli.main import run_command
from workbench.errors import DamagedFile, SettingError
from workbench.grokking import run
from workbench.grokking.report import report
from workbench.grokking.run import read_run, train_in
from workbench.grokking.setting import Setting
from workbench.grokking.training import train

SETTING = Setting(p=11, fraction=0.5, d_model=16, n_heads=2, d_mlp=24, steps=12)
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in vars(SETTING).items()] + ["--checkpoint-every=5"]


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def interrupted_at(step: int):
    """An `on_step` that presses Ctrl-C after a step."""
    return lambda done, _: os.kill(os.getpid(), signal.SIGINT) if done == step else None


def test_a_training_in_a_directory_is_the_one_in_memory(tmp_path):
    assert train_in(tmp_path, SETTING, every=5) == 12
    checkpoints, setting = read_run(tmp_path)
    assert setting == SETTING
    in_memory = train(SETTING, every=5)
    assert [one.step for one in checkpoints] == [one.step for one in in_memory] == [0, 5, 10, 12]
    for one, other in zip(checkpoints, in_memory, strict=True):
        assert all(torch.equal(one.weights[name], weight) for name, weight in other.weights.items())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 5, 10, 12]
    assert 1.5 < lines[0]["test_loss"] < 5


@pytest.mark.parametrize("step", [3, 10])
def test_a_training_broken_off_comes_to_the_same_files(tmp_path, step):
    train_in(tmp_path / "through", SETTING, every=5)
    assert train_in(tmp_path / "broken", SETTING, every=5, on_step=interrupted_at(step)) == step
    assert train_in(tmp_path / "broken", SETTING, every=5, resume=True) == 12
    assert files(tmp_path / "broken") == files(tmp_path / "through")


def test_what_was_written_after_the_state_is_taken_back(tmp_path):
    train_in(tmp_path / "through", SETTING, every=5)
    train_in(tmp_path / "killed", SETTING, every=5, on_step=interrupted_at(7))
    state = (tmp_path / "killed" / "trainer.safetensors").read_bytes()
    train_in(tmp_path / "killed", SETTING, every=5, resume=True)
    (tmp_path / "killed" / "trainer.safetensors").write_bytes(state)
    (tmp_path / "killed" / "metrics.jsonl").open("a").write('{"step": 1')
    (tmp_path / "killed" / "checkpoints" / ".step.part").write_text("")
    train_in(tmp_path / "killed", SETTING, every=5, resume=True)
    assert files(tmp_path / "killed") == files(tmp_path / "through")


def test_a_training_can_go_on_for_longer(tmp_path):
    train_in(tmp_path, SETTING, every=5)
    longer = Setting(**vars(SETTING) | {"steps": 20})
    assert train_in(tmp_path, longer, every=5, resume=True) == 20
    torch.testing.assert_close(read_run(tmp_path)[0][-1].weights, train(longer, every=20)[-1].weights, rtol=0, atol=0)


def test_the_command_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    out = tmp_path / "my run"
    arguments = ["--out", str(out), *OPTIONS]
    advance = run.Trainer.advance

    def interrupting(trainer):
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(run.Trainer, "advance", interrupting)
        assert run_command("grokking", command, arguments) == 1
    line = capsys.readouterr().err
    assert line.startswith("workbench: interrupted after 8 of 12 steps, which are kept; to go on: workbench grokking ")
    again = shlex.split(line.partition("workbench grokking ")[2])
    assert run_command("grokking", command, [*again, "--checkpoint-every", "5"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Trained on 60 of 121 sums mod 11 for 12 steps\n")
    assert run_command("grokking", command, [*again, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["progress"]["step"] == [0, 5, 10, 12]
    assert len(result["neurons"]["frequency"]) == 24


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 1, "already holds a training; go on with it by --resume"),
        (["--resume", "--p", "13"], 1, "was begun with p 11, not 13; resumed, it keeps it"),
        (["--resume", "--checkpoint-every", "0"], 1, "--checkpoint-every must be at least 1, not 0"),
        (["--p", "12"], 2, "--p must be an odd number from 5 on, not 12"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, status, says):
    train_in(tmp_path, SETTING, every=50)
    assert run_command("grokking", command, ["--out", str(tmp_path), *OPTIONS, *arguments]) == status
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1


def test_damaged_directories_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="--out must be a directory"):
        train_in(tmp_path / "file", SETTING, every=5)
    with pytest.raises(DamagedFile, match=r"config\.yaml is not the setting of a training"):
        read_run(tmp_path / "nothing")
    out = tmp_path / "run"
    train_in(out, SETTING, every=5)
    state = out / "trainer.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFile, match=r"trainer\.safetensors is truncated"):
        train_in(out, SETTING, every=5, resume=True)
    checkpoint = out / "checkpoints" / "step-0000010.safetensors"
    checkpoint.write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"step-0000010\.safetensors is truncated"):
        read_run(out)
    for text in ("p: twelve\n", "q: 11\n", "- 1\n", "p: [\n"):
        (out / "config.yaml").write_text(text)
        with pytest.raises(DamagedFile, match=r"config\.yaml is not the setting"):
            read_run(out)


def test_a_report_before_anything_is_learned():
    checkpoints = train(Setting(**vars(SETTING) | {"steps": 2}), every=1)
    text = str(report(checkpoints, SETTING))
    assert "phases           memorisation not ended" in text


def test_a_model_that_has_learned_to_add_does_it_by_waves():
    setting = Setting(p=23, fraction=0.8, d_model=64, d_mlp=128, weight_decay=1.5, steps=1200)
    found = report(train(setting, every=300), setting)
    assert found.progress.test_accuracy[-1] == 1
    assert found.progress.explained[-1] > 0.95
    assert found.progress.restricted_loss[-1] < 1e-5 < 1 < found.progress.excluded_loss[-1]
    assert found.neurons.clustered > 0.8
    assert set(found.neurons.frequency.tolist()) <= set(found.progress.keys) | {1}


@pytest.mark.slow
def test_the_default_setting_groks():
    setting = Setting()
    found = report(train(setting, every=50), setting).progress
    phases = found.phases
    assert 0 < phases.memorised < phases.formed < phases.cleaned
    at = (found.step == 500).nonzero().item()
    assert found.train_accuracy[at] == 1
    assert found.test_accuracy[at] < 0.3 < 0.999 < found.test_accuracy[-1]
    assert found.restricted_loss[at] < 2 < 10 < found.test_loss[at]  # the circuit grows while the test loss stands
    assert found.explained[-1] > 0.95
