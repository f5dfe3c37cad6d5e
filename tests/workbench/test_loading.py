"""Where models come from, and one clear line for each way in which that goes wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import DamagedFile, ModelError, WorkbenchError
from workbench.model import load_model


@pytest.fixture
def directory(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the GPT-2 checkpoint, to be spoiled."""
    return Path(shutil.copytree(checkpoint("gpt2"), tmp_path / "model"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def refused(source: str | Path, error: type[WorkbenchError]) -> str:
    with pytest.raises(error) as caught:
        load_model(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_directory_loads_without_network(directory: Path) -> None:
    model = load_model(str(directory))
    assert model.info.name == str(directory)
    assert model.run("The cat").logits.shape[-1] == 300


def test_a_directory_without_a_tokenizer_loads(directory: Path) -> None:
    for file in directory.glob("tokenizer*"):
        file.unlink()
    assert load_model(directory).tokenizer is None


def test_weights_may_be_kept_in_half_precision(directory: Path) -> None:
    assert load_model(directory, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("source", ["nobody/nothing", "nothing-at-all", "/no/such/directory", "./neither", "a b c"])
def test_no_such_model(source: str) -> None:
    assert f"{source} not found: neither a directory here nor reachable on the Hugging Face hub" in refused(
        source, ModelError
    )


def test_a_file_is_not_a_model(directory: Path) -> None:
    assert "config.json is a file; a model is a Hugging Face directory" in refused(
        directory / "config.json", ModelError
    )


def test_no_config(directory: Path) -> None:
    (directory / "config.json").unlink()
    assert f"{directory} has no config.json" in refused(directory, ModelError)


def test_a_config_of_something_else(directory: Path) -> None:
    (directory / "config.json").write_text("[]")
    assert "names no model_type" in refused(directory, DamagedFile)
    (directory / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refused(directory, DamagedFile)
    (directory / "config.json").write_text('{"model_type": "perceptron"}')
    assert "cannot be read as a language model" in refused(directory, ModelError)


def test_no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    assert f"{directory} has no weights (model.safetensors)" in refused(directory, ModelError)


def test_a_pickle_is_never_loaded(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which is never loaded" in refused(directory, ModelError)


def test_truncated_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert f"{file} is truncated or not a safetensors file" in refused(directory, DamagedFile)


def test_weights_that_lack_a_tensor(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors, transformer.h.1.mlp.c_fc.weight among them" in refused(directory, DamagedFile)


def test_weights_of_another_shape(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"n_positions": 65}))
    assert f"{directory} cannot be read as a language model" in refused(directory, ModelError)


def test_code_that_comes_with_a_model_is_not_run(directory: Path) -> None:
    trap = directory / "modeling_trap.py"
    trap.write_text(f"open({str(directory / 'sprung')!r}, 'w')\nclass Trap: pass\n")
    config = json.loads((directory / "config.json").read_text())
    config |= {
        "model_type": "trap",
        "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "modeling_trap.Trap"),
    }
    (directory / "config.json").write_text(json.dumps(config))
    refused(directory, ModelError)
    assert not (directory / "sprung").exists()
