"""How much heads compose: how far what one writes lies where a later one's queries, keys or values read.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": ‖W_OV W‖_F / (‖W_OV‖_F ‖W‖_F), where W_OV is
the earlier head's and W is the later head's W_QK (Q-composition), its transpose (K) or its W_OV (V).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.model import HookedModel
from workbench.weights import linear_heads

KINDS = ("q", "k", "v")
Scores = Float[Tensor, "layer head layer head"]


@dataclass(frozen=True)
class Composition:
    """Composition of every earlier head [layer, head] with every later one [layer, head]; NaN if it is not later.

    Less `baseline`: what two such matrices have by chance. Turned against each other by a uniformly random rotation,
    any two have a mean squared score of exactly 1/d_model.
    """

    q: Scores
    k: Scores
    v: Scores
    baseline: float

    def ranked(self, kind: Literal["q", "k", "v"]) -> list[tuple[int, int, int, int, float]]:
        """(layer, head, later layer, later head, score), strongest first."""
        scores = getattr(self, kind)
        pairs = (~scores.isnan()).nonzero()
        values = scores[tuple(pairs.T)]
        order = values.argsort(descending=True, stable=True)
        return [(*pairs[i].tolist(), values[i].item()) for i in order]

    def __str__(self) -> str:
        names = {"q": "queries", "k": "keys", "v": "values"}
        lines = [f"Composition above chance ({self.baseline:.3f} is subtracted), strongest pairs"]
        columns = [self.ranked(kind)[:8] for kind in KINDS]
        lines.append("  " + "".join(f"{names[kind]:<24}" for kind in KINDS))
        for row in zip(*columns, strict=True):
            cells = (f"L{a}H{b} → L{c}H{d}  {score:+.3f}" for a, b, c, d, score in row)
            lines.append("  " + "".join(f"{cell:<24}" for cell in cells))
        return "\n".join(line.rstrip() for line in lines)


@torch.no_grad()
def composition(model: HookedModel) -> Composition:
    """Q-, K- and V-composition of all pairs of heads, weights as they act on the residual stream (`linear_heads`).

    Rotary positions turn queries against keys; as is usual, the angle of offset 0 is taken.
    Raises `ModelError` where heads do not read the residual stream through one norm.
    """
    n_layers, n_heads = model.info.n_layers, model.info.n_heads
    baseline = model.info.d_model**-0.5
    scores = {kind: torch.full((n_layers, n_heads, n_layers, n_heads), torch.nan) for kind in KINDS}
    writes: list[Float[Tensor, "head d_value d_model"]] = []
    for layer in range(n_layers):
        own = linear_heads(model, layer)
        reads = {
            "q": own.W_Q @ _triangle(own.W_K).mT,
            "k": own.W_K @ _triangle(own.W_Q).mT,
            "v": own.W_V @ _triangle(own.W_O.mT).mT,
        }
        for kind, read in reads.items():
            read = read / _size(read)
            for earlier, write in enumerate(writes):
                product = torch.einsum("ied,jdf->ijef", write, read)
                scores[kind][earlier, :, layer] = (product.square().sum((2, 3)).sqrt() - baseline).float().cpu()
        write = _triangle(own.W_V) @ own.W_O
        writes.append(write / _size(write))
    return Composition(**scores, baseline=baseline)


def _triangle(W: Float[Tensor, "head d e"]) -> Float[Tensor, "head f e"]:
    """R of W = QR: with it in place of W, a product W X keeps its Frobenius norm, as Q has orthonormal columns."""
    return torch.linalg.qr(W.float()).R.to(W.dtype)


def _size(W: Float[Tensor, "head d e"]) -> Float[Tensor, "head 1 1"]:
    return W.square().sum((1, 2), keepdim=True).sqrt()
