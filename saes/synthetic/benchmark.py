"""Train an SAE on a shipped world and score it: the synthetic benchmark."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saes.config import TrainConfig
from saes.sae import SAE
from saes.synthetic.scores import WorldScores, score
from saes.synthetic.world import World, preset, sample
from saes.trainer import Trainer

SCORED_WITH = 2**31 - 1
"""Seed of the rows that SAEs are scored on, which no training run draws."""


def rows(world: World, batch_size: int, seed: int) -> Iterator[Float[Tensor, "rows d_in"]]:
    """Batches without end, for training. Equal seeds give equal batches."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield sample(world, batch_size, generator).x


def benchmark_config(name: str, **settings: object) -> TrainConfig:
    """Settings for a world: as many latents as features, k its true L0, and small steps to match its small width;
    `settings` override any.
    """
    world = preset(name).config
    fitting = {"d_sae": world.n_features, "k": round(world.l0), "tokens": 1_000_000, "dead_after": 20_000}
    steps = {"batch_size": 256, "lr": 5e-3}
    return TrainConfig(site=f"synthetic.{name}", out=Path(name), **(fitting | steps | settings))


def train(world: World, config: TrainConfig) -> SAE:
    """Train on `config.tokens` fresh rows of the world, seeded by `config.seed`."""
    stream = rows(world, config.batch_size, config.seed)
    sample_rows = torch.cat([next(stream) for _ in range(max(1, 8192 // config.batch_size))])
    trainer = Trainer(config, sample_rows, metadata={"hook_name": config.site})
    for _ in range(config.steps):
        trainer.step(next(stream))
    return trainer.folded()


def run(name: str, n_rows: int = 20_000, **settings: object) -> WorldScores:
    """Train an SAE with `benchmark_config(name, **settings)` and score it on rows that it has not seen."""
    world = preset(name)
    return score(train(world, benchmark_config(name, **settings)), world, n_rows, seed=SCORED_WITH)
