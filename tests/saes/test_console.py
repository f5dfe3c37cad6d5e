"""The commands, as typed."""

import json
import os
import signal

import pytest

from saes import cli, training
from saes.storage import load_sae
from workbench.cli.main import run_command


def run(command, *arguments):
    return run_command(f"sae {command}", {"train": cli.train, "eval": cli.evaluate}[command], [*map(str, arguments)])


def options(config):
    """The settings of a run as options of the command."""
    skipped = ("overwrite", "resume", "device", "screening")
    given = {name: value for name, value in config.to_dict().items() if name not in skipped and value not in (None, [])}
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def test_train_then_eval(small, capsys):
    config = small()
    assert run("train", *options(config)) == 0
    printed = capsys.readouterr().out
    assert "Trained on 5,120 tokens" in printed
    assert "loss recovered" in printed

    assert run("eval", config.out, "--tokens", 500, "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured.pop("structure").keys() == {"mean_max_cosine", "meta_explained"}
    assert measured == {key: pytest.approx(value) for key, value in training_report(config).items()}
    assert {"l0", "fvu", "ce_clean", "ce_spliced", "ce_zero", "kl", "dead"} <= set(measured)


def training_report(config):
    report = json.loads((config.out / "report.json").read_text())
    return {name: value for name, value in report.items() if name != "training"}


def test_a_config_file_with_an_option_over_it(small, tmp_path, capsys):
    config = small()
    training.train(config)
    assert run("train", "--config", config.out / "config.yaml", "--out", tmp_path / "again", "--seed", 0) == 0
    first, second = ((out / "sae_weights.safetensors").read_bytes() for out in (config.out, tmp_path / "again"))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--site", "blocks.1.hook_resid_pots"], 1, "hook_resid_post"),
        (["--model", "no/such/model"], 1, "no/such/model"),
        (["--corpus", "no-such-file.txt"], 1, "no-such-file.txt"),
        (["--k", "0"], 2, "k must be at least 1"),
    ],
)
def test_mistakes_cost_one_line(small, capsys, arguments, status, complaint):
    config = small()
    assert run("train", *options(config), *arguments) == status
    error = capsys.readouterr().err.strip().splitlines()
    assert complaint in error[-1]
    assert not config.out.exists()


def test_an_empty_corpus(small, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    assert run("train", *options(small(corpus=str(tmp_path / "empty.txt")))) == 1
    assert "empty" in capsys.readouterr().err


def test_eval_of_a_damaged_sae(small, capsys):
    config = small()
    training.train(config)
    path = config.out / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert run("eval", config.out) == 1
    assert "sae_weights.safetensors is truncated" in capsys.readouterr().err


def test_eval_says_when_the_model_is_another(small, checkpoint, capsys):
    config = small()
    training.train(config)
    assert run("eval", config.out, "--tokens", 100) == 0
    assert "weights differ" not in capsys.readouterr().err
    assert run("eval", config.out, "--tokens", 100, "--model", checkpoint("llama")) == 0
    assert "is not the model this SAE was trained on" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_so(small, capsys, monkeypatch):
    config, steps, handler = small(), [], signal.getsignal(signal.SIGINT)
    honest = training.Trainer.step

    def step(trainer, rows):
        steps.append(trainer.steps)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(trainer, rows)

    monkeypatch.setattr(training.Trainer, "step", step)
    assert run("train", *options(config)) == 1
    settings = config.out / "config.yaml"
    said = f"interrupted after 896 of 5,120 tokens, which are kept; to go on: workbench sae train --config {settings}"
    assert said + " --resume" in capsys.readouterr().err.splitlines()[-1]
    assert load_sae(config.out / "checkpoints" / "step_0000007").cfg.d_sae == 64
    assert signal.getsignal(signal.SIGINT) is handler

    monkeypatch.setattr(training.Trainer, "step", honest)
    assert run("train", "--config", settings, "--resume") == 0
    assert "Trained on 5,120 tokens" in capsys.readouterr().out
    whole = small(out=config.out.with_name("whole"))
    training.train(whole)
    first, second = ((out / "sae_weights.safetensors").read_bytes() for out in (config.out, whole.out))
    assert first == second
