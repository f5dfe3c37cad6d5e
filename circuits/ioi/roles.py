"""The roles that heads play in indirect object identification, as found by `circuits.ioi.search`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from circuits.ioi.evidence import COPYING, CORRELATION, Evidence, looks
from circuits.ioi.paths import Head, PathStep
from workbench.errors import SettingError
from workbench.path_patching import HEADS
from workbench.sweep import Place

NAME_MOVER, NEGATIVE, S_INHIBITION = "name mover", "negative name mover", "S-inhibition"
DUPLICATE, INDUCTION, PREVIOUS, BACKUP = "duplicate token", "induction", "previous token", "backup name mover"
SUPPRESSOR, CURRENT = "S suppressor", "current token"
_NAMES = (looks("end", "IO"), COPYING, CORRELATION)
EVIDENCE: dict[str, tuple[str, ...]] = {
    NAME_MOVER: _NAMES,
    NEGATIVE: _NAMES,
    SUPPRESSOR: (looks("end", "S2"), CORRELATION),
    S_INHIBITION: (looks("end", "S2"),),
    DUPLICATE: (looks("S2", "S1"),),
    INDUCTION: (looks("S2", "S1+1"),),
    CURRENT: (looks("S2", "S2"),),
    PREVIOUS: (looks("S1+1", "S1"),),
    BACKUP: _NAMES,
}
"""The roles, from the logits backwards, and what else than the effect speaks for each."""


@dataclass(frozen=True)
class Thresholds:
    """From where on a head counts. Raises `SettingError` for one that is not between 0 and 1."""

    effect: float = 0.05
    """The least effect, as a share of the clean logit difference; its 95% interval must exclude zero, too."""
    backup: float = 0.02
    """The same for backup name movers (the paper's 2%)."""
    attention: float = 0.2
    """The least mean attention that confirms a role."""
    copying: float = 0.5
    """The least copying score that confirms a name mover; of a negative one, the score's negative."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise SettingError(f"the threshold {name} is {value}; it must be between 0 and 1")


STANDARD = Thresholds()


@dataclass(frozen=True)
class HeadRole:
    """One head, one role, and what speaks for it."""

    role: str
    layer: int
    head: int
    step: str
    """The receivers of the paths with the largest effect."""
    effect: float
    """What patching these paths does to the logit difference, as a share of it."""
    interval: tuple[float, float]
    evidence: dict[str, float]
    confirmed: bool
    """Whether attention, and the copying score of name movers, reach their thresholds; of S suppressors, whether the
    correlation is negative."""

    @property
    def name(self) -> str:
        return f"L{self.layer}H{self.head}"

    def __str__(self) -> str:
        low, high = self.interval
        evidence = "  ".join(f"{name} {value:.2f}" for name, value in self.evidence.items())
        mark = "" if self.confirmed else "  (not confirmed)"
        return f"{self.name:<7} {self.role:<19} {self.effect:+6.1%} [{low:+.1%}, {high:+.1%}]  {evidence}{mark}"


@dataclass(frozen=True, eq=False)
class IOIRoles:
    """The labelled circuit of a model, every step that led to it, and the evidence on all heads."""

    model: str
    task: str
    roles: tuple[HeadRole, ...]
    """From the logits backwards; within a role, the largest effects first. A head may have several."""
    steps: Mapping[str, PathStep]
    """By receivers, in the order taken; those after a step that found no head are missing."""
    evidence: Evidence
    thresholds: Thresholds
    clean: Float[Tensor, " example"]
    """The logit difference."""

    def heads(self, role: str) -> list[Head]:
        """(layer, head) of the heads with a role."""
        return [(one.layer, one.head) for one in self.roles if one.role == role]

    def places(self, role: str) -> list[Place]:
        """The outputs of the heads with a role, as `workbench.ablation.knock_out` takes them."""
        return outputs(self.heads(role))

    def __str__(self) -> str:
        about = f"{len(self.clean)} prompts, logit difference {self.clean.mean():.3f}"
        head = f"IOI roles in {self.model}: {self.task}, {about}"
        least = f"effects of at least {self.thresholds.effect:.0%} of it ({self.thresholds.backup:.0%} for backups)"
        lines = [head, f"  path patching to three other names, {least}; [95% interval]"]
        lines += [f"  {role}" for role in self.roles] or ["  no head reaches the thresholds"]
        missing = [role for role in EVIDENCE if not self.heads(role)]
        return "\n".join(lines + [f"  none found: {', '.join(missing)}"] * bool(missing and self.roles))

    def to_dict(self) -> dict[str, Any]:
        about = {"model": self.model, "task": self.task, "examples": len(self.clean)}
        about |= {"logit_difference": self.clean.mean(), "thresholds": self.thresholds, "roles": self.roles}
        return about | {"steps": list(self.steps.values()), "evidence": self.evidence.by_name}


def outputs(heads: Sequence[Head]) -> list[Place]:
    """What heads write, one place a layer."""
    layers = sorted({layer for layer, _ in heads})
    return [
        Place(HEADS.replace("*", str(layer)), heads=[h for other, h in heads if other == layer]) for layer in layers
    ]
