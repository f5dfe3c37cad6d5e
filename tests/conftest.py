"""Checkpoints and models that many tests share, each built once a session; and in which order tests run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from xdist.scheduler import LoadFileScheduling

from tests import calls
from tests.checkpoints import ARCHITECTURES, save_checkpoint
from workbench.model import HookedModel, load_model


class Scheduling(LoadFileScheduling):
    """Tests of one file share a process and its fixtures; notebooks, which share nothing and take long, do not."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith("tests/test_notebooks.py") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False  # it puts the files of few tests last, the long ones among them
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests or a browser go first, so that no process is left with one when the others are done."""
    long = {item.path for item in items if {"slow", "browser"} & {mark.name for mark in item.iter_markers()}}
    items.sort(key=lambda item: item.path not in long)


def pytest_runtest_logstart() -> None:
    calls.clear()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoint("llama")`: the directory of a tiny model of that architecture."""
    made: dict[str, Path] = {}

    def build(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_checkpoint(tmp_path_factory.mktemp(architecture), architecture)
        return made[architecture]

    return build


@pytest.fixture(scope="session")
def hooked(checkpoint: Callable[[str], Path]) -> Callable[[str], HookedModel]:
    """`hooked("llama")`: that checkpoint, loaded by the workbench."""
    loaded: dict[str, HookedModel] = {}

    def load(architecture: str) -> HookedModel:
        if architecture not in loaded:
            loaded[architecture] = load_model(checkpoint(architecture))
        return loaded[architecture]

    return load


@pytest.fixture(scope="session")
def tinytown() -> HookedModel:
    """The bundled model."""
    return load_model("tinytown")


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(architecture: str, hooked: Callable[[str], HookedModel]) -> HookedModel:
    """A hooked model of each architecture in turn."""
    return hooked(architecture)


@pytest.fixture
def reference(architecture: str, checkpoint: Callable[[str], Path]) -> PreTrainedModel:
    """The same checkpoint, loaded by Hugging Face alone, with attention that can be looked at."""
    return AutoModelForCausalLM.from_pretrained(checkpoint(architecture), attn_implementation="eager").eval()


@pytest.fixture
def prompt() -> torch.Tensor:
    """Two rows of twelve random tokens."""
    return torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(1))
