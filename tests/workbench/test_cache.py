"""A cache gives the rows that the model would, whoever wrote it and however that ended."""

import json
import uuid
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from tests.checkpoints import byte_tokenizer
from workbench import cache as module
from workbench.activations import shuffled_activations
from workbench.corpus import PackedCorpus, open_corpus
from workbench.errors import DamagedFile, SettingError
from workbench.files import read_tensors
from workbench.model import HookedModel, wrap_model

SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
STREAM = {"rows_per_step": 50, "buffer_rows": 400, "n_tokens": 800, "seed": 0, "batch_size": 4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    words = ["the", "cat", "sat", "on", "a", "mat", "where", "old", "stone"]
    path.write_text("\n".join(" ".join(words[(i * n) % 9] for i in range(30)) for n in range(60)))
    return open_corpus(path, byte_tokenizer(), context=24)


@pytest.fixture
def stream(hooked: Callable[[str], HookedModel], corpus: PackedCorpus, monkeypatch: pytest.MonkeyPatch):
    """`stream(cache)`: all that a stream serves; `stream.runs` counts the contexts that the model has read."""
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * 4 * 24 * 32 * 4)  # about two batches of one site
    model = hooked("gpt2")
    honest, read = model.run, []
    monkeypatch.setattr(model, "run", lambda tokens, **kw: read.append(len(tokens)) or honest(tokens, **kw))

    def serve(cache=None, sites=SITES[1], steps=None, corpus=corpus, model=model, **changes):
        read.clear()
        rows = shuffled_activations(model, corpus, sites, cache=cache, **STREAM | changes)
        served = torch.cat(list(islice(rows, steps)))
        serve.runs = sum(read)
        rows.close()
        return served

    return serve


def test_rows_are_the_same_with_a_cache_and_without(stream, tmp_path: Path) -> None:
    plain = stream()
    without = stream.runs
    first = stream(tmp_path / "cache")
    assert stream.runs == without
    again = stream(tmp_path / "cache")
    assert stream.runs <= 1  # to see how wide the site is
    assert torch.equal(plain, first)
    assert torch.equal(plain, again)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3


def test_a_longer_run_goes_on_where_a_shorter_one_stopped(stream, tmp_path: Path) -> None:
    plain = stream()
    everything = stream.runs
    stream(tmp_path / "cache", steps=3)
    begun = stream.runs
    assert torch.equal(stream(tmp_path / "cache"), plain)
    assert stream.runs < everything - begun / 2


def test_a_stream_from_a_cache_can_be_saved_and_go_on(
    stream, hooked: Callable[[str], HookedModel], corpus: PackedCorpus, tmp_path: Path
) -> None:
    plain = stream(tmp_path / "cache")
    arguments = {"cache": tmp_path / "cache", **STREAM}
    one = shuffled_activations(hooked("gpt2"), corpus, SITES[1], **arguments)
    list(islice(one, 5))
    other = shuffled_activations(hooked("gpt2"), corpus, SITES[1], **arguments)
    other.restore(one.state())
    assert torch.equal(torch.cat(list(other)), plain[250:])


def test_several_sites_lie_side_by_side_and_one_can_be_read_alone(stream, tmp_path: Path) -> None:
    both = stream(tmp_path / "cache", sites=SITES)
    one = stream(tmp_path / "cache", sites=SITES[1])
    assert stream.runs <= 1
    assert torch.equal(both[:, 32:], one)
    assert torch.equal(both, stream(sites=SITES))
    assert torch.equal(one, stream())
    stream(tmp_path / "cache", n_tokens=1200)  # harvests both sites where it goes on
    assert torch.equal(stream(tmp_path / "cache", sites=SITES, n_tokens=1200), stream(sites=SITES, n_tokens=1200))


def test_what_it_is_not_of_is_refused(stream, corpus: PackedCorpus, checkpoint, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    cache = tmp_path / "cache"
    stream(cache, steps=1)
    half = wrap_model(AutoModelForCausalLM.from_pretrained(checkpoint("gpt2"), dtype=torch.bfloat16), byte_tokenizer())
    text = tmp_path / "other.txt"
    text.write_text("another text about a cat " * 100)
    for changes, complaint in (
        ({"model": half}, "is of another model; give another directory"),
        (
            {"corpus": open_corpus(text, byte_tokenizer(), context=24)},
            "is of another corpus, or of the same in another",
        ),
        ({"sites": SITES}, r"holds blocks.1.hook_resid_post, and not blocks.0.hook_resid_post"),
        ({"skip_special": False}, r"is of another skip \(\(0,\), not \(\)\)"),
    ):
        with pytest.raises(SettingError, match=complaint):
            stream(cache, **changes)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(DamagedFile, match=r"notes/manifest.json is missing"):
        stream(tmp_path / "notes")
    with pytest.raises(SettingError, match="is a file"):
        stream(text)


def test_a_damaged_shard_is_named(stream, tmp_path: Path) -> None:
    plain = stream(tmp_path / "cache")
    shard = sorted((tmp_path / "cache").glob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-50] ^= 1
    for damaged, complaint in ((bytes(content), "checksum does not fit; delete it"), (content[:-9], "is truncated")):
        shard.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=rf"{shard.name}.*{complaint}"):
            stream(tmp_path / "cache")
    shard.unlink()
    assert torch.equal(stream(tmp_path / "cache"), plain)
    assert stream.runs < 30
    assert read_tensors(shard).keys() == {"rows", "counts", "positions", "checksum"}


class Full(MemoryFileSystem):
    """A filesystem that runs out of room: it writes half of a file, and says so."""

    protocol = "full"
    room: ClassVar[int] = 2**40
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def pipe_file(self, path, value, **kwargs):
        if len(value) > Full.room:
            super().pipe_file(path, value[: len(value) // 2])
            raise PermissionError("the bucket is full\nask for more")
        Full.room -= len(value)
        super().pipe_file(path, value, **kwargs)


fsspec.register_implementation("full", Full, clobber=True)


@pytest.fixture
def url():
    """A folder in memory that nothing else uses."""
    return f"memory://cache-{uuid.uuid4().hex}"


def test_a_cache_at_a_url_gives_the_same_rows(stream, url: str, tmp_path: Path) -> None:
    plain = stream(tmp_path / "cache")
    without = stream.runs
    assert torch.equal(stream(url), plain)
    assert stream.runs == without
    assert torch.equal(stream(url), plain)
    assert stream.runs <= 1
    here = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    system, path = fsspec.url_to_fs(url)
    there = {name.rpartition("/")[2]: system.cat_file(name) for name in system.ls(path, detail=False)}
    assert there.keys() == here.keys()
    assert all(there[name] == here[name] for name in here if name != "manifest.json")
    assert json.loads(there["manifest.json"]) == json.loads(here["manifest.json"])


def test_a_file_url_is_the_directory_itself(stream, tmp_path: Path) -> None:
    plain = stream(f"file://{tmp_path}/cache")
    assert torch.equal(stream(tmp_path / "cache"), plain)
    assert stream.runs <= 1


def test_a_longer_run_goes_on_at_a_url(stream, url: str) -> None:
    plain = stream()
    everything = stream.runs
    stream(url, steps=3)
    begun = stream.runs
    assert torch.equal(stream(url), plain)
    assert stream.runs < everything - begun / 2


def test_what_is_wrong_at_a_url_is_named(stream, url: str) -> None:
    stream(url)
    with pytest.raises(SettingError, match=rf"the cache {url} is of another skip"):
        stream(url, skip_special=False)
    system, path = fsspec.url_to_fs(url)
    shard = sorted(name for name in system.ls(path, detail=False) if name.endswith(".safetensors"))[1]
    name, content = shard.rpartition("/")[2], bytearray(system.cat_file(shard))
    content[-50] ^= 1
    for damaged, complaint in ((bytes(content), "checksum does not fit; delete it"), (content[:-9], "is truncated")):
        system.pipe_file(shard, bytes(damaged))
        with pytest.raises(DamagedFile, match=rf"{url}/{name}.*{complaint}"):
            stream(url)
    system.rm_file(f"{path}/manifest.json")
    with pytest.raises(DamagedFile, match=rf"{url}/manifest.json is missing"):
        stream(url)
    with pytest.raises(SettingError, match=rf"a folder is needed, and {url}/{name} is a file"):
        stream(f"{url}/{name}")
    with pytest.raises(SettingError, match=r"cannot open nowhere://x: Protocol not known: nowhere"):
        stream("nowhere://x")


def test_a_filesystem_that_fails_leaves_nothing_half_written(stream, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = stream()
    monkeypatch.setattr(Full, "room", 40_000)  # the manifest, and one shard of some 25 kB
    with pytest.raises(OSError, match=r"^cannot write full://cache/0-0-\d+\.safetensors: the bucket is full$"):
        stream("full://cache")
    system, path = fsspec.url_to_fs("full://cache")
    names = [name.rpartition("/")[2] for name in system.ls(path, detail=False)]
    assert sorted(names) == ["0-0-0.safetensors", "manifest.json"]
    monkeypatch.setattr(Full, "room", 2**40)
    assert torch.equal(stream("full://cache"), plain)


def test_what_a_killed_writer_left_at_a_url_is_passed_over(stream, url: str) -> None:
    system, path = fsspec.url_to_fs(url)
    system.pipe_file(f"{path}/.manifest.json.0123.part", b"{")
    assert torch.equal(stream(url), stream())
