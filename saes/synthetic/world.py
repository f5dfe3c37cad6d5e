"""Worlds: known features, each a direction, and the rule by which they fire together."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import SettingError

DIRECTIONS_SEED = 2**30
"""Added to a world's seed. An SAE draws its first weights as directions are drawn here, and with the same seed and
shape it would begin at the answer."""


@dataclass(frozen=True)
class WorldConfig:
    """What makes a world. Equal settings make equal worlds."""

    n_features: int
    d_in: int
    l0: float
    """Mean number of features that fire in a row."""
    zipf: float = 0.0
    """Features that fire of themselves do so with probabilities proportional to rank^-zipf."""
    children: int = 0
    """Children of each parent. With c children, one feature in 1 + c is a parent, and the others are its children."""
    with_child: float = 0.5
    """The probability that exactly one child fires where its parent does; otherwise none fires."""
    group: int = 0
    """Features in a group that tend to fire together; 0 for none."""
    correlation: float = 0.0
    """The correlation, between two features of a group, of the Gaussians whose thresholds decide what fires."""
    seed: int = 0
    """Draws the directions."""

    def __post_init__(self) -> None:
        if self.n_features % (1 + self.children):
            raise SettingError(f"n_features must be a multiple of 1 + children ({1 + self.children})")
        if self.group and self.n_features % self.group:
            raise SettingError(f"n_features must be a multiple of group ({self.group})")
        if self.group and self.children:
            raise SettingError("a world has either groups or children")
        if not 0 <= self.correlation < 1:
            raise SettingError(f"correlation must be from 0 to below 1, not {self.correlation}")


PRESETS: dict[str, WorldConfig] = {
    "tiny": WorldConfig(n_features=32, d_in=32, l0=3),
    "superposed": WorldConfig(n_features=256, d_in=64, l0=4, zipf=0.5),
    "hierarchical": WorldConfig(n_features=96, d_in=64, l0=4, children=3),
    "correlated": WorldConfig(n_features=128, d_in=64, l0=4, group=8, correlation=0.6),
}
"""`tiny`: orthogonal directions, independent, equally frequent. `superposed`: four times as many features as
dimensions, frequent and rare ones. `hierarchical`: a child fires only with its parent, and without its siblings.
`correlated`: eight features tend to fire together."""


@dataclass(frozen=True)
class World:
    """The truth. A row is the sum of its features' directions, each times its strength."""

    config: WorldConfig
    directions: Float[Tensor, "feature d_in"]
    """Unit directions; orthogonal if there are at most d_in, otherwise drawn evenly from the sphere."""
    probability: Float[Tensor, " feature"]
    """How often each feature fires, its parent's part included."""
    parent: Int[Tensor, " feature"]
    """The feature that must fire for this one to fire; -1 for none."""


def build(config: WorldConfig) -> World:
    """The world that a config describes. Raises `SettingError` where its features would have to fire too often."""
    generator = torch.Generator().manual_seed(DIRECTIONS_SEED + config.seed)
    random = torch.randn(config.n_features, config.d_in, generator=generator)
    if config.n_features <= config.d_in:
        directions = torch.linalg.qr(random.T).Q.T.contiguous()
    else:
        directions = random / random.norm(dim=1, keepdim=True)
    family = 1 + config.children
    number = torch.arange(config.n_features)
    parent = torch.where(number % family == 0, -1, number - number % family)
    rank = torch.arange(1, config.n_features // family + 1)
    share = rank.double().pow(-config.zipf)
    offspring = config.with_child if config.children else 0.0
    roots = share / share.sum() * config.l0 / (1 + offspring)
    if roots.max() > 0.5:
        raise SettingError(f"l0 {config.l0:g} is too much: the most frequent feature would fire in {roots.max():.0%}")
    relative = torch.where(parent < 0, 1.0, offspring / max(config.children, 1))
    probability = roots.repeat_interleave(family) * relative
    return World(config, directions, probability.float(), parent)


def preset(name: str) -> World:
    """A shipped world, by its name in `PRESETS`."""
    if name not in PRESETS:
        raise SettingError(f"there is no world {name!r}; there are {', '.join(PRESETS)}")
    return build(PRESETS[name])


@dataclass(frozen=True)
class Sample:
    """Rows of a world and what made them."""

    x: Float[Tensor, "row d_in"]
    strengths: Float[Tensor, "row feature"]
    """Between 0.5 and 1.5, evenly; 0 where the feature does not fire."""


def sample(world: World, n_rows: int, generator: torch.Generator) -> Sample:
    """`n_rows` independent rows. All randomness is the generator's."""
    config = world.config
    family, roots = 1 + config.children, world.probability[world.parent < 0]
    fires = _fire(roots, n_rows, config, generator)
    if config.children:
        draw = torch.rand(n_rows, len(roots), generator=generator) / config.with_child
        child = torch.where(draw < 1, (draw * config.children).long(), -1)
        born = child[..., None] == torch.arange(config.children)
        fires = torch.cat([fires[..., None], born & fires[..., None]], dim=2).view(n_rows, len(roots) * family)
    strengths = fires * (0.5 + torch.rand(fires.shape, generator=generator))
    return Sample(strengths @ world.directions, strengths)


def _fire(probability: Tensor, n_rows: int, config: WorldConfig, generator: torch.Generator) -> Tensor:
    """[row, root] what fires, through a Gaussian copula: one shared factor for each group of roots."""
    noise = torch.randn(n_rows, len(probability), generator=generator)
    if config.group:
        factor = torch.randn(n_rows, len(probability) // config.group, generator=generator)
        shared = factor.repeat_interleave(config.group, dim=1)
        noise = math.sqrt(1 - config.correlation) * noise + math.sqrt(config.correlation) * shared
    return noise > -torch.special.ndtri(probability)
