"""The options of training a tuned lens, on the command line and in Python. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.errors import SettingError

_FREE = ("out", "device", "checkpoint_every", "eval_tokens", "resume", "overwrite")
"""Settings in which a resumed training may differ: they do not decide the lens, but for rounding."""


@dataclass(frozen=True)
class LensTrainOptions:
    """Train a tuned lens: for each layer, an affine map after which the unembedding reads it as it reads the last.

    It is saved in `out`, with its KL divergence from the model's predictions on held-out text, layer by layer, beside
    that of the logit lens. On the command line: `workbench lens PROMPT --tuned DIR`.
    """

    out: Path
    """Directory to save the lens in."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    corpus: str | None = None
    """Text to train on: tinytown, a .txt, .jsonl or .parquet file, or a Hugging Face dataset. Default: tinytown."""
    tokens: int = 1_000_000
    """How many tokens to train on; a corpus that is shorter is read again."""
    context: int = 128
    """Tokens in a context."""
    batch_size: int = 8
    """Contexts in a step."""
    lr: float | None = None
    """Learning rate of Adam, which falls linearly to 0; default: 1 / d_model."""
    seed: int = 0
    """Seeds the order of the corpus."""
    eval_tokens: int = 20_000
    """Held-out tokens that the lens is measured on."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; only the last is kept. 0: one when it stops."""
    device: str | None = None
    """cpu, cuda, mps…; default: the best one there is."""
    overwrite: bool = False
    """Replace the lens in `out`."""
    resume: bool = False
    """Go on with the training in `out` where it was stopped, to the very lens that it would have come to; begin it if
    nothing was saved yet. Only out, device, checkpoint_every and eval_tokens may be changed."""

    def __post_init__(self) -> None:
        least = {"tokens": 1, "context": 2, "batch_size": 1, "seed": 0, "eval_tokens": 1, "checkpoint_every": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise SettingError(f"{name} must be at least {bound}, not {getattr(self, name)}")
        if self.lr is not None and self.lr <= 0:
            raise SettingError(f"lr must be above 0, not {self.lr}")
        if self.overwrite and self.resume:
            raise SettingError("overwrite begins the training anew and resume goes on with it; choose one")
        if self.corpus is None and self.model != "tinytown":
            raise SettingError(f"corpus is needed: a text file or dataset for {self.model} to read")

    @property
    def corpus_name(self) -> str:
        return self.corpus or "tinytown"

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what the lens becomes, as plain values."""
        settings = asdict(self) | {"corpus": self.corpus_name}
        return {name: value for name, value in settings.items() if name not in _FREE}
