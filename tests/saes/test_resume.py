"""However a run is cut short, resuming it comes to the bits of the run that was not."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from saes import training, training_pass
from saes.checkpoints import Checkpoints
from saes.storage import load_sae
from saes.trainer import Trainer
from tests.checkpoints import save_checkpoint
from tests.saes.test_run_directory import file_size_limit
from workbench import files
from workbench.errors import DamagedFile, SettingError, TrainingError
from workbench.interrupt import Interrupt


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def one_model(hooked, monkeypatch):
    """The model of most tests here is loaded once."""
    honest = training.load_model
    monkeypatch.setattr(training, "load_model", lambda name, device: hooked("gpt2") if "gpt2" in name else honest(name))


def train(config, **options):
    return training.train(config, **options)


def outcome(out: Path) -> dict[str, bytes | list[str]]:
    """What a run leaves, but for its times."""
    names = ("sae_weights.safetensors", "cfg.json", "metrics.jsonl")
    report = json.loads((out / "report.json").read_text())
    report["training"] = report["training"]["steps"], report["training"]["tokens"]
    return {name: (out / name).read_bytes() for name in names} | {"report": report, "files": sorted(os.listdir(out))}


@pytest.fixture
def settings(small, tmp_path):
    """`settings(**changes)`: a run of 24 steps with a checkpoint every 5, in another directory at every call."""
    runs = iter(range(1000))

    def make(**changes):
        sizes = {"tokens": 24 * 128, "log_every": 2, "checkpoint_every": 5, "eval_tokens": 200, "dead_after": 512}
        return small(**{"out": tmp_path / f"run{next(runs)}", **sizes, **changes})

    return make


def resumed(config, **changes):
    return train(type(config)(**vars(config) | {"resume": True} | changes))


def crash_at(monkeypatch, where, name, call):
    """`where.name` ends the process when called for the `call`-th time; returns how often it has been called."""
    honest, calls = getattr(where, name), []

    def crashing(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise Crash
        return honest(*args, **kwargs)

    monkeypatch.setattr(where, name, crashing)
    return calls


def crash(monkeypatch, act, config, where, name, call):
    """`act(config)`, ended by the `call`-th call of `where.name`."""
    with monkeypatch.context() as patch:
        crash_at(patch, where, name, call)
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # a killed process tidies nothing up
        with pytest.raises(Crash):
            act(config)


@pytest.mark.parametrize("architecture", ["topk", "standard"])
@pytest.mark.parametrize("at", [3, 5, 13])
def test_a_crash_between_steps(settings, monkeypatch, architecture, at):
    whole, cut = settings(architecture=architecture), settings(architecture=architecture)
    train(whole)
    crash(monkeypatch, train, cut, Trainer, "step", at)
    resumed(cut)
    assert outcome(cut.out) == outcome(whole.out)


@pytest.mark.parametrize(
    ("architecture", "site"),
    [
        *((name, "blocks.1.hook_resid_post") for name in ("batchtopk", "matryoshka", "jumprelu", "gated")),
        ("matching_pursuit", "blocks.1.hook_resid_post"),
        ("transcoder", "blocks.1.hook_resid_mid"),
        ("topk_skip_transcoder", "blocks.1.ln2.hook_normalized"),
        ("crosscoder", "blocks.*.hook_resid_post"),
        ("batchtopk_crosscoder", "blocks.*.hook_resid_post"),
    ],
)
def test_every_architecture_goes_on_to_the_same_bits(settings, monkeypatch, architecture, site):
    """Its own state too: batchtopk's running threshold, what several sites are scaled by."""
    whole, cut = (settings(architecture=architecture, site=site, tokens=12 * 128) for _ in range(2))
    train(whole)
    crash(monkeypatch, train, cut, Trainer, "step", 8)
    resumed(cut)
    assert outcome(cut.out) == outcome(whole.out)


def test_a_crash_at_any_renaming(settings, monkeypatch):
    """Files and directories take their place by renaming, so what is between two of them is what a kill can find."""
    whole = settings(tokens=12 * 128)
    with monkeypatch.context() as patch:
        renamings = crash_at(patch, os, "replace", 0)
        train(whole)
    assert len(renamings) > 15
    expected = outcome(whole.out)
    for call in range(1, len(renamings) + 1, 2):
        cut = settings(tokens=12 * 128)
        crash(monkeypatch, train, cut, os, "replace", call)
        resumed(cut)
        assert outcome(cut.out) == expected, call
        assert not list(cut.out.parent.glob(".*part")), call


def test_crash_after_crash(settings, monkeypatch):
    whole, cut = settings(), settings()
    train(whole)
    for steps in (7, 9, 4, 12):
        crash(monkeypatch, resumed, cut, Trainer, "step", steps)
        assert len(Checkpoints(cut.out).all()) <= 2
    resumed(cut)
    assert outcome(cut.out) == outcome(whole.out)


def test_an_interrupted_run_goes_on_from_where_it_was(settings):
    whole, cut, interrupt = settings(checkpoint_every=0), settings(checkpoint_every=0), Interrupt()
    train(whole)
    assert (
        train(cut, on_progress=lambda metrics: metrics.step == 14 and interrupt.request(), interrupt=interrupt).steps
        == 14
    )
    assert [path.name for path in Checkpoints(cut.out).all()] == ["step_0000014"]
    seen = []
    train(type(cut)(**vars(cut) | {"resume": True}), on_progress=seen.append)
    assert [metrics.step for metrics in seen] == [16, 18, 20, 22, 24]
    assert outcome(cut.out) == outcome(whole.out)


def test_a_complete_run_is_not_trained_again(settings, monkeypatch):
    config = settings()
    result = train(config)
    monkeypatch.setattr(training_pass, "TrainingPass", None)
    assert resumed(config) == result


def test_an_unfinished_run_is_not_begun_anew_unasked(settings, monkeypatch):
    config = settings()
    crash(monkeypatch, train, config, Trainer, "step", 13)
    with pytest.raises(SettingError, match="holds an unfinished run; --resume goes on with it"):
        train(config)
    train(type(config)(**vars(config) | {"overwrite": True}))
    with pytest.raises(SettingError, match="choose one"):
        settings(overwrite=True, resume=True)


@pytest.fixture
def stopped(settings):
    """A run that was stopped at step 12, checkpoints at 10 and 12."""
    config, interrupt = settings(), Interrupt()
    train(config, on_progress=lambda metrics: metrics.step == 12 and interrupt.request(), interrupt=interrupt)
    assert [path.name for path in Checkpoints(config.out).all()] == ["step_0000010", "step_0000012"]
    return config


def test_another_setting_is_refused(stopped):
    with pytest.raises(SettingError, match="was begun with d_sae 64, not 128; resumed, it keeps its settings"):
        resumed(stopped, d_sae=128)
    resumed(stopped, eval_tokens=100, checkpoint_every=3)


def test_another_model_is_refused(stopped, checkpoint, tmp_path):
    settings = yaml.safe_load((stopped.out / "config.yaml").read_text())
    other = str(save_checkpoint(tmp_path / "other", "gpt2", seed=1))
    (stopped.out / "config.yaml").write_text(yaml.safe_dump(settings | {"model": other}))
    with pytest.raises(SettingError, match=r"other is not the model that the run in .* was begun with"):
        resumed(stopped, model=other)


def test_another_corpus_is_refused(small, settings, text_file, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text(text_file.read_text())
    config, interrupt = settings(corpus=str(own)), Interrupt()
    train(config, on_progress=lambda _: interrupt.request(), interrupt=interrupt)
    own.write_text(text_file.read_text() + "one more line")
    with pytest.raises(SettingError, match=r"own.txt is not the corpus that the run .* it has changed"):
        resumed(config)


@pytest.mark.parametrize("name", ["trainer.safetensors", "stream.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_named_and_can_be_gone_without(settings, stopped, name):
    last = stopped.out / "checkpoints" / "step_0000012"
    content = (last / name).read_bytes()
    (last / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DamagedFile, match=rf"{name} is .*; without .*step_0000012, the run goes on from step_0000010"
    ) as caught:
        resumed(stopped)
    assert "\n" not in str(caught.value)
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    resumed(stopped)
    whole = settings()
    train(whole)
    assert outcome(stopped.out) == outcome(whole.out)


def test_a_full_disk_costs_nothing_that_was_kept(settings, stopped):
    """There is room for metrics, and not for another checkpoint."""
    with (
        file_size_limit(16_384),
        pytest.raises(TrainingError, match=r"File too large.*kept up to step_0000012, and can be"),
    ):
        resumed(stopped)
    assert not list((stopped.out / "checkpoints").glob(".*part"))
    resumed(stopped)
    whole = settings()
    train(whole)
    assert outcome(stopped.out) == outcome(whole.out)


def test_two_processes_do_not_write_one_run(settings):
    config = settings()
    config.out.mkdir()
    with files.held(config.out), pytest.raises(SettingError, match="another process is at work"):
        train(config)
    train(config)


def test_a_run_that_diverges_keeps_a_finite_checkpoint(settings, monkeypatch):
    """The weights go bad in the very step that a checkpoint is due, before the loss shows it."""
    honest = Trainer.step

    def step(trainer, rows):
        done = honest(trainer, rows)
        if trainer.steps == 10:
            trainer.sae.W_enc.data[0, 0] = float("nan")
        return done

    monkeypatch.setattr(Trainer, "step", step)
    config = settings()
    with pytest.raises(TrainingError, match=r"no longer finite at step 10 .*lower lr.*checkpoint is .*step_0000005"):
        train(config)
    assert load_sae(config.out / "checkpoints" / "step_0000005").W_enc.isfinite().all()


def test_a_run_whose_latents_all_die_is_stopped(settings):
    config = settings(architecture="standard", l1_coefficient=1e6, lr=0.5, tokens=60 * 128, warm_up=0.0)
    with pytest.raises(TrainingError, match=r"every latent is dead at step \d+: none has fired for 512 tokens; try"):
        train(config)
    assert Checkpoints(config.out).last() is not None


def test_signals_are_answered_with_a_checkpoint(settings, monkeypatch):
    honest = Trainer.step

    def step(trainer, rows):
        if trainer.steps == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(trainer, rows)

    monkeypatch.setattr(Trainer, "step", step)
    config = settings()
    assert train(config).interrupted
    assert Checkpoints(config.out).last().name == "step_0000009"


def test_a_run_that_is_stopped_while_it_is_measured_is_not_trained_again(settings, monkeypatch):
    whole, cut = settings(checkpoint_every=0), settings(checkpoint_every=0)
    train(whole)
    crash(monkeypatch, train, cut, training, "evaluate", 1)
    monkeypatch.setattr(Trainer, "step", None)
    resumed(cut)
    assert outcome(cut.out) == outcome(whole.out)
