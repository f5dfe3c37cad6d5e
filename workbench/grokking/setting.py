"""The settings of a grokking study. Imports nothing heavy."""

from dataclasses import dataclass

from workbench.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A one-layer transformer, the sums it is trained on, and how. By default, one that groks in a minute or two."""

    p: int = 53
    """The modulus: an odd number."""
    fraction: float = 0.35
    """The share of the p² sums that is trained on; the others are the test."""
    d_model: int = 64
    """Width of the residual stream."""
    n_heads: int = 4
    """Attention heads."""
    d_mlp: int = 256
    """Neurons."""
    learning_rate: float = 5e-3
    """Of AdamW on all training sums at once, after ten steps of warm-up."""
    weight_decay: float = 1.0
    """Without it, the model would stay with what it has learned by heart."""
    steps: int = 2500
    """Training steps."""
    seed: int = 0
    """Decides the initial weights, and which sums are trained on."""

    def __post_init__(self) -> None:
        if self.p < 5 or self.p % 2 == 0:
            raise SettingError(f"--p must be an odd number from 5 on, not {self.p}")
        if not 0 < self.fraction < 1 or not 0 < self.n_train < self.p**2:
            raise SettingError(f"--fraction must be between 0 and 1, and leave sums on both sides, not {self.fraction}")
        for name in ("d_model", "n_heads", "d_mlp", "steps"):
            if getattr(self, name) < 1:
                raise SettingError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.d_model % self.n_heads:
            raise SettingError(f"--d-model ({self.d_model}) must be a multiple of --n-heads ({self.n_heads})")
        if not 0 < self.learning_rate < float("inf"):
            raise SettingError(f"--learning-rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.weight_decay < float("inf"):
            raise SettingError(f"--weight-decay must be 0 or more, not {self.weight_decay}")
        if self.seed < 0:
            raise SettingError(f"--seed must be 0 or more, not {self.seed}")

    @property
    def n_train(self) -> int:
        """The number of sums that are trained on."""
        return int(self.fraction * self.p**2)


PAPER = Setting(p=113, fraction=0.3, d_model=128, d_mlp=512, learning_rate=1e-3, weight_decay=1.0, steps=20_000)
"""The setting of Nanda et al. 2023, section 3, which trains for 40,000 steps and has grokked after about 14,000."""
