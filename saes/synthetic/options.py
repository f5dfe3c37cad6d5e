"""The options of `workbench sae bench`. Imports nothing that imports torch."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from saes.config import Architecture

CARRIED = (
    "architecture",
    "l1_coefficient",
    "penalty",
    "l0_coefficient",
    "threshold",
    "bandwidth",
    "pre_act_coefficient",
    "batch_size",
    "lr",
    "clip",
    "warm_up",
    "decay",
    "dead_after",
    "aux_coefficient",
)
"""Options of `sae train` that are tried on a world; the others are of a model, a text, or a width."""


@dataclass(frozen=True)
class BenchConfig:
    """Does a configuration find features that are known to be there?

    An SAE is trained on each of some worlds, rows of random sums of known directions, and what it found is counted.
    """

    worlds: Positional[tuple[str, ...]] = ()
    """tiny, superposed, hierarchical, correlated; default: all."""
    settings: Path | None = None
    """A YAML file of options of `sae train`, such as a run's config.yaml, of which those that concern the SAE and its
    steps are tried. Default: steps that suit a world."""
    architecture: Architecture | None = None
    """How the SAE is made sparse; default: as the file says, or topk."""
    d_sae: int | None = None
    """Number of latents; default: as many as the world has features."""
    k: int | None = None
    """Active latents a row, for architectures that have k; default: as many as the world's active features."""
    tokens: int = 1_000_000
    """Rows to train on."""
    seed: int = 0
    """Seeds the weights and the rows."""
