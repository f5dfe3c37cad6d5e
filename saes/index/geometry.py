"""What the decoder's directions say by themselves: which directions are near, and which tokens they promote."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.sae import SAE
from workbench.errors import ModelError
from workbench.model import HookedModel
from workbench.promotion import logit_effects_of, strongest_effects

ENTRIES = 2**22
"""Cosines or logits that are held at a time."""
STREAM = ("hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Sites that lie in, or write straight into, the residual stream, which the unembedding reads."""


class LogitHistogram(NamedTuple):
    heights: list[float]
    """Tokens in each bin."""
    values: list[float]
    """Centres of the bins."""


@torch.no_grad()
def neighbours(W_dec: Float[Tensor, "d_sae d_in"], n: int) -> tuple[Int[Tensor, "d_sae n"], Float[Tensor, "d_sae n"]]:
    """For each latent, the `n` others whose decoder directions have the largest cosine, and those cosines.

    A direction of norm 0 has cosine 0 with all. With fewer than n + 1 latents, all others.
    """
    unit = torch.nn.functional.normalize(W_dec.float(), dim=1)
    n = min(n, len(unit) - 1)
    others, cosines = [], []
    for rows in _blocks(len(unit), len(unit)):
        cosine = unit[rows] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(len(unit))[rows]] = -torch.inf
        top = cosine.topk(n, dim=1)
        others.append(top.indices.cpu())
        cosines.append(top.values.cpu())
    return torch.cat(others), torch.cat(cosines)


@torch.no_grad()
def logit_effects(
    sae: SAE, model: HookedModel, n: int
) -> tuple[Int[Tensor, "d_sae token"], Float[Tensor, "d_sae token"]] | None:
    """The tokens whose logits each decoder direction raises most (columns 0..n-1, best first) and lowers most (then).

    Effects are those of `workbench.promotion`. Of an SAE that writes several sites, its directions at the last count.

    None where that site is not in the residual stream, or the model's logits are not its final norm and unembedding.
    """
    try:
        if (directions := _directions(sae)) is None:
            return None
        return strongest_effects(model, directions, n)
    except ModelError:
        return None


@torch.no_grad()
def logit_histograms(
    sae: SAE, model: HookedModel, start: int, stop: int, bins: int = 50
) -> list[LogitHistogram | None]:
    """For the latents from `start` to before `stop`: how many tokens' effects (see `logit_effects`) lie in each of
    `bins` equal intervals between the lowest and the highest. None where there are no effects."""
    found = []
    try:
        for effect in _effects(sae, model, start, stop):
            low, high = effect.aminmax(dim=1, keepdim=True)
            step = ((high - low) / bins).clamp_min(torch.finfo(effect.dtype).tiny)
            bin = ((effect - low) / step).long().clamp_max(bins - 1)
            counts = effect.new_zeros(len(effect), bins).scatter_add_(1, bin, torch.ones_like(effect))
            centres = low + step * (torch.arange(bins, device=effect.device) + 0.5)
            found += [LogitHistogram(*row) for row in zip(counts.tolist(), centres.tolist(), strict=True)]
    except ModelError:
        found = []
    return found or [None] * (stop - start)


def _effects(sae: SAE, model: HookedModel, start: int, stop: int) -> Iterator[Float[Tensor, "block token"]]:
    """The effect of each direction on every token's logit, a block of latents at a time; nothing off the stream."""
    if (directions := _directions(sae)) is not None:
        yield from logit_effects_of(model, directions[start:stop])


def _directions(sae: SAE) -> Float[Tensor, "d_sae d_model"] | None:
    """The decoder's directions at the last site that the SAE writes, if that is in the residual stream."""
    writes = sae.route.writes
    return sae.parts(sae.W_dec)[-1] if writes and writes[-1].endswith(STREAM) else None


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(1, ENTRIES // n_columns)
    return (slice(start, start + step) for start in range(0, n_rows, step))
