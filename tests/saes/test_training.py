"""Training runs from model and text to a directory."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from saes.config import TrainConfig
from saes.storage import load_sae
from saes.training import train
from tests.saes.test_run_directory import file_size_limit
from workbench.activations import harvest, special_ids
from workbench.corpus import open_corpus
from workbench.errors import SettingError, TrainingError, UnknownSite
from workbench.interrupt import Interrupt
from workbench.model import load_model


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def weights(directory: Path) -> bytes:
    return (directory / "sae_weights.safetensors").read_bytes()


def test_a_run_leaves_a_complete_directory(small):
    seen = []
    config = small(checkpoint_every=20, log_every=10)
    result = train(config, on_progress=seen.append)

    assert files(config.out) == [
        "cfg.json",
        "config.yaml",
        "metrics.jsonl",
        "report.json",
        "sae_weights.safetensors",
    ]
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40] == [metrics.step for metrics in seen]
    assert [line["tokens"] for line in lines] == [1280, 2560, 3840, 5120]
    assert set(lines[0]) == {"step", "tokens", "loss", "fvu", "l0", "dead", "lr"}
    assert lines[-1]["fvu"] < lines[0]["fvu"]
    assert (result.steps, result.tokens, result.interrupted) == (40, 5120, False)
    report = json.loads((config.out / "report.json").read_text())
    assert report.pop("training").keys() == {"steps", "tokens", "seconds", "tokens_per_second"}
    assert report == result.report.to_dict()
    assert "variance unexplained" in str(result)


def test_the_saved_sae_takes_raw_activations(small):
    """FVU of the file against activations harvested apart, with their mean norm far from sqrt(d)."""
    config = small(tokens=128 * 200, lr=3e-3)
    report = train(config).report
    sae, model = load_sae(config.out), load_model(config.model)
    assert sae.site == config.site
    metadata = sae.cfg.metadata
    assert (metadata["model_name"], metadata["dataset_path"]) == (config.model, config.corpus)
    assert (metadata["context_size"], metadata["exclude_special_tokens"]) == (32, True)

    corpus = open_corpus(config.corpus, model.tokenizer, context=32)
    batches = harvest(model, corpus, [config.site])
    x = torch.cat([batch.rows(config.site, special_ids(model.tokenizer)) for batch in batches])
    fvu = ((x - sae(x)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert fvu.item() == pytest.approx(report.fvu, rel=0.15)
    assert fvu < 0.3
    assert report.l0 == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_the_seed_decides_the_weights(small, tmp_path, architecture):
    runs = {name: tmp_path / name for name in ("one", "two", "other")}
    for (name, out), seed in zip(runs.items(), (0, 0, 1), strict=True):
        train(small(out=out, seed=seed, architecture=architecture))
        assert name in out.name
    assert weights(runs["one"]) == weights(runs["two"]) != weights(runs["other"])


def test_config_yaml_trains_the_same_sae_again(small, tmp_path):
    config = small(seed=5, k=3)
    train(config)
    settings = yaml.safe_load((config.out / "config.yaml").read_text())
    train(TrainConfig(**settings | {"out": tmp_path / "again"}))
    assert weights(tmp_path / "again") == weights(config.out)


def test_a_corpus_of_the_caller(small, text_file):
    model = load_model(small().model)
    corpus = open_corpus(text_file, model.tokenizer, context=32)
    assert train(small(), model, corpus).report is None
    report = train(small(overwrite=True), model, corpus, held_out=corpus).report
    assert report.corpus == str(text_file)


def test_interrupted_training_saves_what_there_is(small):
    config, interrupt = small(), Interrupt()
    result = train(config, on_progress=lambda _: interrupt.request(), interrupt=interrupt)
    assert (result.steps, result.interrupted, result.report) == (10, True, None)
    assert load_sae(config.out / "checkpoints" / "step_0000010").cfg.d_sae == 64
    assert not (config.out / "cfg.json").exists()


def test_divergence_keeps_the_last_checkpoint(small, monkeypatch):
    from saes.trainer import Trainer

    honest = Trainer.step

    def step(trainer, rows):
        return honest(trainer, rows * float("nan") if trainer.steps == 25 else rows)

    monkeypatch.setattr(Trainer, "step", step)
    config = small(checkpoint_every=10)
    with pytest.raises(TrainingError, match=r"no longer finite at step 26 .*lower lr.*step_0000020") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert load_sae(config.out / "checkpoints" / "step_0000020").W_dec.isfinite().all()
    assert not (config.out / "cfg.json").exists()


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"site": "blocks.1.hook_resid_pots"}, UnknownSite, "hook_resid_post"),
        ({"site": "blocks.9.hook_resid_post"}, UnknownSite, "layers are 0 to 2"),
        ({"site": "blocks.*.hook_resid_post"}, SettingError, "names 3"),
        ({"buffer": 512}, SettingError, "buffer of 512 rows is too small"),
    ],
)
def test_a_run_that_cannot_start_leaves_no_trace(small, settings, error, complaint):
    config = small(**settings)
    with pytest.raises(error, match=complaint):
        train(config)
    assert not config.out.exists()


def test_a_full_disk_leaves_nothing_half_written(small):
    """There is room for the settings and the metrics, and not for the weights."""
    config = small()
    with file_size_limit(8192), pytest.raises(TrainingError, match=r"sae_weights.*no checkpoint had been written"):
        train(config)
    assert files(config.out) == ["config.yaml", "metrics.jsonl"]
    for line in (config.out / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    assert not list(config.out.parent.glob(".*.part"))


def test_a_cache_at_a_url_changes_nothing(small, tmp_path):
    plain = small()
    train(plain)
    for name in ("first", "again"):
        config = small(out=tmp_path / name, cache=f"memory://{tmp_path.name}")
        train(config)
        assert weights(config.out) == weights(plain.out)
        assert yaml.safe_load((config.out / "config.yaml").read_text())["cache"] == config.cache


def test_a_cache_that_cannot_be_written_is_named(small, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("the bucket is read-only")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refuse)
    url = f"memory://{tmp_path.name}-full"
    with pytest.raises(OSError, match=f"^cannot write {url}/manifest.json: the bucket is read-only$"):
        train(small(cache=url))
