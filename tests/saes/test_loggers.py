"""What TensorBoard and Weights & Biases hold of a run, read back from their files."""

import json
import struct
import sys
from types import SimpleNamespace

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from saes import training
from saes.config import FinetuneConfig, SweepConfig
from saes.finetuning import finetune
from saes.loggers import RunLog
from saes.sweep import read_sweep
from saes.trainer import Trainer
from workbench.errors import SettingError, TrainingError
from workbench.interrupt import Interrupt


def by_file(out):
    """Every figure of metrics.jsonl, as {name: [(step, value)]}."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {name: [(line["step"], line[name]) for line in lines] for name in lines[0] if name != "step"}


def by_tensorboard(out):
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def wandb_records(path):
    """The records of an offline run: LevelDB's log format, in blocks of 32 KiB, after a header of seven bytes."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the end of a block that no record fits in
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def by_wandb(directory):
    """The id of a run, and its history as {name: [(step, value)]}."""
    run_id, history = None, {}
    (path,) = directory.glob("run-*.wandb")
    for record in wandb_records(path):
        run_id = record.run.run_id or run_id
        for item in record.history.item:
            if not (name := item.key or item.nested_key[0]).startswith("_"):
                history.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    return run_id, history


def close(figures):
    return {
        name: [(step, pytest.approx(value, rel=1e-6)) for step, value in series] for name, series in figures.items()
    }


@pytest.fixture
def brief(small):
    def make(**settings):
        return small(**{"tokens": 12 * 128, "log_every": 2, "eval_tokens": 200, "checkpoint_every": 5} | settings)

    return make


def test_tensorboard_shows_what_metrics_jsonl_holds(brief):
    config = brief(log_to=("tensorboard",))
    training.train(config)
    assert by_tensorboard(config.out) == close(by_file(config.out))
    assert yaml.safe_load((config.out / "config.yaml").read_text())["log_to"] == ["tensorboard"]


def test_a_crashed_run_shows_no_step_twice(brief, monkeypatch):
    """It logs up to step 8, and goes on from the checkpoint at step 5."""
    config, honest = brief(log_to=("tensorboard",)), Trainer.step

    def step(trainer, rows):
        if trainer.steps == 9:
            raise KeyboardInterrupt
        return honest(trainer, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            training.train(config)
    assert [step for step, _ in by_tensorboard(config.out)["fvu"]] == [2, 4, 6, 8]
    training.train(type(config)(**vars(config) | {"resume": True}))
    assert [step for step, _ in by_tensorboard(config.out)["fvu"]] == [2, 4, 6, 8, 10, 12]
    assert by_tensorboard(config.out) == close(by_file(config.out))
    training.train(type(config)(**vars(config) | {"overwrite": True, "log_to": ()}))
    assert not (config.out / "tensorboard").exists()


def test_fine_tuning_logs_too(brief):
    config = brief()
    training.train(config)
    sizes = {"tokens": 512, "batch_size": 128, "eval_tokens": 200, "log_every": 1}
    tuned = FinetuneConfig(config.out, config.out.with_name("tuned"), log_to=("tensorboard",), **sizes)
    finetune(tuned)
    assert by_tensorboard(tuned.out) == close(by_file(tuned.out))


def test_wandb_goes_on_under_the_same_id(brief, monkeypatch):
    """Weights & Biases itself, offline: each sitting is a directory of its own, which `wandb sync` puts together."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config, interrupt = brief(log_to=("wandb",)), Interrupt()
    training.train(config, on_progress=lambda metrics: metrics.step == 6 and interrupt.request(), interrupt=interrupt)
    training.train(type(config)(**vars(config) | {"resume": True}))
    first, second = sorted(path for path in (config.out / "wandb").glob("offline-run-*"))
    (run_id, early), (same_id, late) = by_wandb(first), by_wandb(second)
    assert run_id == same_id == json.loads((config.out / "wandb.json").read_text())["id"]
    assert {name: early[name] + late[name] for name in early} == close(by_file(config.out))


def test_a_sweep_logs_each_run(brief, tmp_path):
    base = brief(log_to=("tensorboard",)).to_dict()
    settings = {name: value for name, value in base.items() if name not in ("out", "overwrite", "resume", "seed")}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(settings | {"out": str(tmp_path / "sweep"), "k": [2, 4]}))
    sweep = read_sweep(SweepConfig(path))
    configs = sweep.configs([base["site"]])
    training.train_together(configs, sweep.home)
    for config in configs:
        assert by_tensorboard(config.out) == close(by_file(config.out))


def test_a_missing_package_is_said_before_anything_is_done(brief, monkeypatch):
    config = brief(log_to=("tensorboard", "wandb"))
    monkeypatch.setattr("saes.loggers.importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(SettingError, match="log_to wandb needs a package that is not installed: pip install wandb"):
        training.train(config)
    assert not config.out.exists()


def test_wandb_out_of_reach_costs_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise broken.Error("api_key not configured\nand so on")

    broken = SimpleNamespace(Error=type("Error", (Exception,), {}), init=init)
    monkeypatch.setitem(sys.modules, "wandb", broken)
    with pytest.raises(TrainingError, match="wandb: api_key not configured; WANDB_MODE=offline logs to the disk"):
        RunLog(tmp_path, ("wandb",), {}).open(after=0)
