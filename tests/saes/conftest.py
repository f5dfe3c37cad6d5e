"""A small text, and settings that train on it within a second or two."""

from collections.abc import Callable
from pathlib import Path

import pytest

from saes.config import TrainConfig

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "then",
    "ran",
    "after",
    "another",
    "near",
    "old",
    "stone",
    "bridge",
    "rain",
]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 9,000 tokens of the test checkpoints' tokenizer, no line twice."""
    path = tmp_path_factory.mktemp("text") / "cats.txt"
    lines = (" ".join(WORDS[(i * step) % len(WORDS)] for i in range(12)) for step in range(1, 150))
    path.write_text("\n".join(f"{number} {line}." for number, line in enumerate(lines)))
    return path


@pytest.fixture
def small(checkpoint: Callable[[str], Path], text_file: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """`small(k=3)`: a run of 40 steps on a tiny GPT-2, with some settings changed."""

    def make(**settings: object) -> TrainConfig:
        return TrainConfig(
            **{
                "site": "blocks.1.hook_resid_post",
                "out": tmp_path / "sae",
                "model": str(checkpoint("gpt2")),
                "corpus": str(text_file),
                "d_sae": 64,
                "k": 4,
                "tokens": 40 * 128,
                "batch_size": 128,
                "context": 32,
                "buffer": 2048,
                "eval_tokens": 500,
                "device": "cpu",
            }
            | settings
        )

    return make
