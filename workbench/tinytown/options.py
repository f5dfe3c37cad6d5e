"""The options of the `workbench tinytown` commands, which are also those of the functions behind them."""

from dataclasses import dataclass

from workbench.errors import SettingError


@dataclass(frozen=True)
class SampleOptions:
    """Print texts of Tinytown, one document a line."""

    documents: int = 10
    """Number of documents."""
    seed: int = 0
    """Equal seeds give equal texts."""
    split: str = "train"
    """"train", or "held_out": only combinations that training never saw."""

    def __post_init__(self) -> None:
        if self.documents < 1:
            raise SettingError(f"--documents must be at least 1, not {self.documents}")
        if self.seed < 0:
            raise SettingError(f"--seed must be 0 or more, not {self.seed}")
        if self.split not in ("train", "held_out"):
            raise SettingError(f"--split is 'train' or 'held_out', not {self.split!r}")


@dataclass(frozen=True)
class TrainOptions:
    """Train the Tinytown model from random weights and save it as a Hugging Face directory with its card."""

    out: str
    """Directory to write the model to."""
    tokens: int = 10_000_000
    """Training tokens, none seen twice."""
    passages: int = 600_000
    """Of these, the first so many are repeated passages of random words."""
    architecture: str = "llama"
    """"llama"; or "gemma2": norms after each sublayer too, soft caps, every other layer with a sliding window."""
    n_layers: int = 4
    """Transformer layers."""
    n_heads: int = 4
    """Attention heads a layer."""
    n_kv_heads: int | None = None
    """Key and value heads a layer, each shared by a group of heads; if left out, every head has its own."""
    d_model: int = 128
    """Width of the residual stream."""
    d_mlp: int = 384
    """Width of the gated MLP."""
    context: int = 128
    """Positions in a context."""
    batch_size: int = 8
    """Contexts in a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW, after 100 steps of warm-up; it falls linearly to 0 over the second half."""
    weight_decay: float = 0.1
    """On weight matrices; embeddings and norms have none."""
    seed: int = 0
    """Decides the initial weights and the texts."""
    checkpoints: tuple[int, ...] = ()
    """Counts of training tokens at which to keep the model as it stands, in directories tokens-… of OUT-checkpoints."""

    def steps(self, tokens: int) -> int:
        """Training steps that read so many tokens."""
        return -(-tokens // (self.batch_size * self.context))

    def __post_init__(self) -> None:
        if self.architecture not in ("llama", "gemma2"):
            raise SettingError(f"--architecture is 'llama' or 'gemma2', not {self.architecture!r}")
        for name in ("tokens", "n_layers", "n_heads", "d_model", "d_mlp", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.n_kv_heads is not None and (self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads):
            raise SettingError(f"--n-kv-heads must divide --n-heads ({self.n_heads}), not be {self.n_kv_heads}")
        if not 0 <= self.passages <= self.tokens:
            raise SettingError(f"--passages must be between 0 and --tokens ({self.tokens}), not {self.passages}")
        if self.d_model % (2 * self.n_heads):
            raise SettingError(f"--d-model ({self.d_model}) must be a multiple of 2 x --n-heads ({self.n_heads})")
        if wrong := [count for count in self.checkpoints if not 0 <= count <= self.tokens]:
            raise SettingError(f"--checkpoints must be between 0 and --tokens ({self.tokens}), not {wrong[0]}")
        if not 0 < self.learning_rate < float("inf"):
            raise SettingError(f"--learning-rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.weight_decay < float("inf"):
            raise SettingError(f"--weight-decay must be 0 or more, not {self.weight_decay}")
        if self.seed < 0:
            raise SettingError(f"--seed must be 0 or more, not {self.seed}")
        if self.context < 32:
            raise SettingError(f"--context must be at least 32 positions, not {self.context}")


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a model on every skill of Tinytown, on held-out material."""

    model: str = "tinytown"
    """The model: "tinytown" or a Hugging Face directory with Tinytown's tokenizer."""
    examples: int = 400
    """Prompts a skill."""
    seed: int = 0
    """Decides the prompts."""

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise SettingError(f"--examples must be at least 1, not {self.examples}")
        if self.seed < 0:
            raise SettingError(f"--seed must be 0 or more, not {self.seed}")
