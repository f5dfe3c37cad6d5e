"""Which tokens a direction in the residual stream promotes, for many directions at once.

The effect of a direction v on the logits is unembed(u) - unembed(0), u = v scaled to root mean square 1, less its mean
over the vocabulary, which no probability depends on. So the final norm's own gain and centring count in full, while its
division by the size of the whole residual stream, which no direction knows, is left out: the effects of one direction
compare with each other, not with another's. Direct effects only: later layers are passed over.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.model import HookedModel

ENTRIES = 2**22
"""Logits that are held at a time."""


@torch.no_grad()
def logit_effects_of(
    model: HookedModel, directions: Float[Tensor, "direction d_model"]
) -> Iterator[Float[Tensor, "block token"]]:
    """The effect of each direction on every token's logit, a block of directions at a time.

    Raises `ModelError` if the model's logits are not its final norm and unembedding alone.
    """
    rms = directions.float().square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
    scaled = (directions / rms).to(model.device, model.dtype)
    origin = model.unembed(torch.zeros_like(scaled[:1])).float()
    for rows in scaled.split(max(1, ENTRIES // model.info.d_vocab)):
        effect = model.unembed(rows).float() - origin
        yield effect - effect.mean(1, keepdim=True)


def strongest_effects(
    model: HookedModel, directions: Float[Tensor, "direction d_model"], n: int
) -> tuple[Int[Tensor, "direction token"], Float[Tensor, "direction token"]]:
    """The `n` tokens whose logits each direction raises most (the first columns, best first) and lowers most (then)."""
    n = min(n, model.info.d_vocab // 2)
    tokens, effects = [], []
    for effect in logit_effects_of(model, directions):
        top, bottom = effect.topk(n, dim=1), effect.topk(n, dim=1, largest=False)
        tokens.append(torch.cat([top.indices, bottom.indices], 1).cpu())
        effects.append(torch.cat([top.values, bottom.values], 1).cpu())
    return torch.cat(tokens), torch.cat(effects)
