"""Do two trainings find the same latents?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import SettingError

TWIN = 0.9
"""The cosine above which two latents of different SAEs are twins."""
ENTRIES = 2**24
"""Cosines held at a time."""


@dataclass(frozen=True)
class Stability:
    """How much of an SAE comes again in others, such as those of other seeds."""

    twins: float
    """Share of its latents that have a twin, averaged over the others. A twin is the mutually nearest latent of the
    other SAE (each has its largest cosine with the other), with a cosine above 0.9."""
    mean_cosine: float
    """Mean over latents of the largest cosine with any latent of the other, averaged over the others."""
    others: int

    def rows(self) -> list[tuple[str, str, str]]:
        note = f"cosine > {TWIN:g}, against {self.others} other SAE{'s' if self.others > 1 else ''}"
        return [
            ("latents with a twin", f"{self.twins:.2%}", note),
            ("nearest latent elsewhere", f"{self.mean_cosine:.4f}", "mean cosine"),
        ]


def stability(W_dec: Float[Tensor, "d_sae d_in"], others: Sequence[Tensor]) -> Stability:
    """Compare a decoder with others of the same d_in, of any width.

    Twins are mutual nearest neighbours rather than the pairs of a Hungarian matching: above 0.9 both are one-to-one,
    but the matching gives up a good pair where that lets two poor ones in, depends on latents far away, and takes cubic
    time; mutual neighbours take one product of the decoders, a block at a time.

    Raises `SettingError` if there is nothing to compare with, or a decoder of another d_in.
    """
    if not others:
        raise SettingError("stability needs at least one other SAE")
    for other in others:
        if other.shape[1] != W_dec.shape[1]:
            raise SettingError(
                f"the SAEs take {W_dec.shape[1]} and {other.shape[1]} dimensions; they have no latent alike"
            )
    pairs = [twins(W_dec, other) for other in others]
    return Stability(
        twins=sum(found.float().mean().item() for found, _ in pairs) / len(pairs),
        mean_cosine=sum(cosine.mean().item() for _, cosine in pairs) / len(pairs),
        others=len(pairs),
    )


@torch.no_grad()
def twins(
    W_dec: Float[Tensor, "d_sae d_in"], other: Float[Tensor, "d_other d_in"]
) -> tuple[Bool[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """Which latents have a twin in `other`, and each one's largest cosine with it. Rows of norm 0 have cosine 0."""
    unit, theirs = (torch.nn.functional.normalize(rows.float(), dim=1) for rows in (W_dec, other))
    best, nearest = _nearest(unit, theirs)
    _, back = _nearest(theirs, unit)
    mutual = back[nearest] == torch.arange(len(unit), device=unit.device)
    return mutual & (best > TWIN), best


def _nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    step = max(1, ENTRIES // len(others))
    parts = [(block @ others.T).max(1) for block in rows.split(step)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
