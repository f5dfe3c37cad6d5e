"""Files are written whole or not at all."""

import errno
import os

import pytest
import torch

from workbench.errors import DamagedFile, SettingError
from workbench.files import (
    held,
    read_json,
    read_tensors,
    remove_directory,
    remove_parts,
    whole_directory,
    whole_file,
    write_json,
    write_tensors,
)


def test_what_is_written_is_read_back(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([1], dtype=torch.int64)}
    write_tensors(tmp_path / "deep" / "x.safetensors", tensors)
    read = read_tensors(tmp_path / "deep" / "x.safetensors")
    assert {name: tensor.tolist() for name, tensor in read.items()} == {n: t.tolist() for n, t in tensors.items()}
    write_json(tmp_path / "x.json", {"größe": [1, None]})
    assert read_json(tmp_path / "x.json") == {"größe": [1, None]}


def write_half(path, error):
    with whole_file(path) as part:
        part.write_text("half of the new")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_tensors_on_a_disk_too_small_leave_nothing(tmp_path):
    """A file-size limit stands in for a full disk; it makes the writer fail halfway."""
    resource = pytest.importorskip("resource", reason="no resource limits on this system")
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"x\.safetensors"):
            write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(tmp_path) == []


def test_damage_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DamagedFile, match=r"x\.safetensors is truncated or not a safetensors file"):
        read_tensors(path)
    with pytest.raises(DamagedFile, match="missing"):
        read_tensors(tmp_path / "none.safetensors")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")


def write_half_a_directory(path):
    with whole_directory(path) as stage:
        (stage / "one").write_text("1")
        raise KeyboardInterrupt


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "made"
    with pytest.raises(KeyboardInterrupt):
        write_half_a_directory(path)
    assert list(path.parent.iterdir()) == []
    with whole_directory(path) as stage:
        (stage / "one").write_text("1")
        assert not path.exists()
    assert [(file.parent, file.read_text()) for file in path.iterdir()] == [(path, "1")]
    assert path.stat().st_mode & 0o777 == 0o777 & ~os.umask(os.umask(0o022))
    remove_directory(path)
    remove_directory(path)
    assert list(path.parent.iterdir()) == []


def test_the_litter_of_a_killed_process_is_removed(tmp_path):
    (tmp_path / ".made.abc.part").mkdir()
    (tmp_path / ".made.abc.part" / "half").write_text("")
    (tmp_path / ".other.abc.part").write_text("")
    (tmp_path / "part").write_text("mine")
    remove_parts(tmp_path, of="made")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abc.part", "part"]
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_a_directory_is_held_by_one_and_let_go(tmp_path):
    with held(tmp_path), pytest.raises(SettingError, match="another process is at work"), held(tmp_path):
        pass
    with held(tmp_path):
        pass
