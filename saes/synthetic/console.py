"""What `workbench sae bench` runs."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track

from saes.config import TrainConfig
from saes.synthetic.benchmark import run
from saes.synthetic.options import CARRIED, BenchConfig
from saes.synthetic.scores import FOUND, WorldScores
from saes.synthetic.world import PRESETS, preset
from workbench.cli.command import read_config


@dataclass(frozen=True)
class Bench:
    """A configuration on some worlds."""

    scores: dict[str, WorldScores]
    """By the name of the world."""

    def to_dict(self) -> dict[str, Any]:
        return {name: scores.to_dict() for name, scores in self.scores.items()}

    def __str__(self) -> str:
        head = f"{'':<14}{'found':>12}{'MCC':>8}{'F1':>8}{'L0':>8}{'true':>8}{'FVU':>9}{'dead':>8}"
        return "\n".join([head, *map(_line, *zip(*self.scores.items(), strict=True)), "", EXPLAINED])


EXPLAINED = f"""found: features with a latent whose cosine is above {FOUND:g}
MCC: the cosines of a one-to-one matching, over all features
F1: of each feature's latent as a detector of it"""


def _line(name: str, scores: WorldScores) -> str:
    found = f"{round(scores.recovered * scores.n_features)} of {scores.n_features}"
    figures = f"{scores.mcc:>8.3f}{scores.f1:>8.3f}{scores.l0:>8.2f}{scores.true_l0:>8.2f}{scores.fvu:>9.4f}"
    return f"{name:<14}{found:>12}{figures}{scores.dead:>8.1%}"


def bench(config: BenchConfig) -> Bench:
    """Train on each world, with a progress bar. Raises `SettingError` for worlds and settings that do not exist."""
    worlds = config.worlds or tuple(PRESETS)
    for name in worlds:
        preset(name)
    settings = _settings(config)
    console = Console(stderr=True)
    shown = track(worlds, "training", console=console, transient=True, disable=not console.is_terminal)
    return Bench({name: run(name, **settings) for name in shown})


def _settings(config: BenchConfig) -> dict[str, Any]:
    """What is set for all worlds: from the file, and over it from the options."""
    chosen: dict[str, Any] = {}
    if config.settings:
        saved = read_config(config.settings, TrainConfig)
        chosen = {name: value for name, value in saved.items() if name in CARRIED}
    given = {name: getattr(config, name) for name in ("architecture", "d_sae", "k", "tokens", "seed")}
    return chosen | {name: value for name, value in given.items() if value is not None}
