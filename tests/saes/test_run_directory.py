"""The files of a run, on a disk that is full among others."""

import json
import resource
from contextlib import contextmanager

import pytest

from saes.config import TrainConfig
from saes.run_directory import RunDirectory
from workbench.errors import SettingError
from workbench.metrics_log import MetricsLog


@contextmanager
def file_size_limit(n_bytes):
    """No file may grow past `n_bytes`: the kernel refuses to write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def config(out):
    return TrainConfig(site="blocks.0.hook_resid_post", out=out)


def test_metrics_are_lines_of_json(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1, "loss": 0.5})
        log.write({"step": 2, "loss": float("nan")})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]


def test_a_line_the_disk_has_no_room_for_is_taken_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"step": 1})
        with file_size_limit(path.stat().st_size + 5), pytest.raises(OSError, match=r"metrics\.jsonl"):
            log.write({"step": 2})
        assert path.read_text() == '{"step": 1}\n'
        log.write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_full_device_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        MetricsLog(tmp_path / "metrics.jsonl") as log,
        pytest.raises(OSError, match=r"No space left on device.*metrics\.jsonl"),
    ):
        log.write({"step": 1})


def test_a_finished_run_is_not_overwritten_unasked(tmp_path):
    RunDirectory(tmp_path).open(config(tmp_path))
    RunDirectory(tmp_path).open(config(tmp_path))  # it holds no SAE yet
    (tmp_path / "cfg.json").write_text("{}")
    (tmp_path / "features").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="already holds an SAE; choose another out"):
        RunDirectory(tmp_path)
    RunDirectory(tmp_path, overwrite=True).open(config(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]


def test_nothing_is_touched_before_the_run_opens(tmp_path):
    RunDirectory(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_out_may_not_be_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="is a file"):
        RunDirectory(tmp_path / "file")
