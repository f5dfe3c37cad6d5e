"""How much of a known world an SAE has found."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saes.sae import SAE
from saes.synthetic.world import World, sample
from workbench.errors import SettingError

FOUND = 0.9
"""The cosine above which a direction counts as recovered."""
BATCH = 4096


@dataclass(frozen=True)
class WorldScores:
    """An SAE against the truth. Cosines keep their sign: a latent that points the other way has found nothing."""

    n_features: int
    d_sae: int
    n_rows: int
    recovered: float
    """Share of features to which some decoder row has a cosine above 0.9."""
    mcc: float
    """Coverage-penalised mean correlation: the one-to-one matching of latents and features with the largest sum of
    cosines (negative ones count 0), that sum over the number of features. A feature without a latent counts 0."""
    f1: float
    """Mean over features of the F1 of "its matched latent is above zero" as a detector of "the feature fires";
    0 without a matched latent."""
    uniqueness: float
    """Different features among the nearest features of all latents, over d_sae (as in sae_lens.synthetic)."""
    dead: float
    """Share of latents that fired in no row."""
    l0: float
    true_l0: float
    """Latents, and features, that fire in a row, on average."""
    fvu: float
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean|^2."""
    feature_f1: Float[Tensor, " feature"]
    feature_cosine: Float[Tensor, " feature"]
    """The largest cosine of any decoder row with the feature's direction."""
    matched: Int[Tensor, " feature"]
    """The latent that `mcc` matched to each feature; -1 for none."""

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not isinstance(value, Tensor)}

    def __str__(self) -> str:
        rows = [
            ("features recovered", f"{self.recovered:.1%}", f"cosine above {FOUND:g}"),
            ("coverage-penalised MCC", f"{self.mcc:.3f}", ""),
            ("mean F1 of a feature", f"{self.f1:.3f}", ""),
            ("uniqueness", f"{self.uniqueness:.3f}", ""),
            ("dead latents", f"{self.dead:.1%}", ""),
            ("active latents (L0)", f"{self.l0:.2f}", f"true {self.true_l0:.2f}"),
            ("variance unexplained (FVU)", f"{self.fvu:.4f}", ""),
        ]
        head = f"{self.d_sae:,} latents against {self.n_features:,} features, on {self.n_rows:,} rows:"
        return "\n".join([head, *(f"  {name:<30} {value:>9}  {note}".rstrip() for name, value, note in rows)])


def match(
    W_dec: Float[Tensor, "d_sae d_in"], directions: Float[Tensor, "feature d_in"]
) -> tuple[Int[Tensor, " feature"], Float[Tensor, "d_sae feature"]]:
    """The matching of `WorldScores.mcc` (Hungarian algorithm) and all cosines."""
    cosine = torch.nn.functional.normalize(W_dec.detach().double(), dim=1) @ directions.double().T
    latent, feature = map(torch.from_numpy, linear_sum_assignment(cosine.clamp_min(0).numpy(), maximize=True))
    matched = torch.full((len(directions),), -1)
    matched[feature] = latent
    matched[feature[cosine[latent, feature] <= 0]] = -1
    return matched, cosine


@torch.no_grad()
def score(sae: SAE, world: World, n_rows: int = 20_000, seed: int = 0) -> WorldScores:
    """Score an SAE on its decoder's directions, and on what it does with `n_rows` rows drawn with `seed`.

    Raises `SettingError` if the SAE takes another number of dimensions.
    """
    if sae.cfg.d_in != world.config.d_in:
        raise SettingError(f"the SAE takes {sae.cfg.d_in} dimensions, and this world has {world.config.d_in}")
    matched, cosine = match(sae.W_dec.cpu(), world.directions)
    generator = torch.Generator().manual_seed(seed)
    d_sae, n_features = cosine.shape
    found = matched >= 0
    fired, hits, active = (torch.zeros(n, dtype=torch.float64) for n in (d_sae, n_features, n_features))
    total = torch.zeros(world.config.d_in, dtype=torch.float64)
    errors = squares = 0.0
    for start in range(0, n_rows, BATCH):
        drawn = sample(world, min(BATCH, n_rows - start), generator)
        x = drawn.x.to(sae.W_dec.device)
        latents = sae.encode(x)
        error = (x - sae.decode(latents)).double()
        fires, true = (latents > 0).cpu(), drawn.strengths > 0
        fired += fires.sum(0)
        active += true.sum(0)
        hits += (fires[:, matched.clamp_min(0)] & true & found).sum(0)
        errors += error.square().sum().item()
        squares += drawn.x.double().square().sum().item()
        total += drawn.x.double().sum(0)
    f1 = 2 * hits / (fired[matched.clamp_min(0)] + active).clamp_min(1) * found
    variance = squares - total.square().sum().item() / n_rows
    nearest = cosine.amax(0)
    return WorldScores(
        n_features=n_features,
        d_sae=d_sae,
        n_rows=n_rows,
        recovered=(nearest > FOUND).double().mean().item(),
        mcc=cosine[matched[found], found.nonzero()[:, 0]].sum().item() / n_features,
        f1=f1.mean().item(),
        uniqueness=len(cosine.argmax(1).unique()) / d_sae,
        dead=(fired == 0).double().mean().item(),
        l0=fired.sum().item() / n_rows,
        true_l0=active.sum().item() / n_rows,
        fvu=errors / variance if variance > 0 else math.nan,
        feature_f1=f1.float(),
        feature_cosine=nearest.float(),
        matched=matched,
    )
