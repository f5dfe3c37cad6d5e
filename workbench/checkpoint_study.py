"""What is measured of the checkpoints of a training. Imports nothing heavy."""

from dataclasses import dataclass

from workbench.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class CheckpointStudy:
    """What `workbench.dynamics` measures of every checkpoint."""

    corpus: str = "tinytown:passages"
    """What the loss is measured on: "tinytown:passages" (repeated random words), "tinytown", a file, a dataset id."""
    contexts: int = 64
    """Contexts of it."""
    context: int | None = None
    """Tokens in a context; by default as many as the model reads, up to 512."""
    tasks: tuple[str, ...] = ()
    """Tinytown's tasks by name, or .jsonl or .csv files of prompt pairs."""
    examples: int = 100
    """Prompts a Tinytown task."""
    sequences: int = 16
    """Sequences of repeated random tokens, for the scores of heads."""
    seed: int = 0
    """Decides the texts, the prompts and the random tokens."""

    def __post_init__(self) -> None:
        for name, least in (("contexts", 2), ("examples", 1), ("sequences", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise SettingError(f"{name} must be at least {least}, not {getattr(self, name)}")
