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

    Every product is taken in the heads' own dimensions: with W_OV = V O and W_QK = Q K^T, ‖V O Q K^T‖² is the trace of
    (V^T V)(O Q)(K^T K)(O Q)^T. Rotary positions turn queries against keys; as is usual, the angle of offset 0 is taken.
    Raises `ModelError` where heads do not read the residual stream through one norm.
    """
    heads = [linear_heads(model, layer) for layer in range(model.info.n_layers)]
    n_layers, n_heads = model.info.n_layers, model.info.n_heads
    baseline = model.info.d_model**-0.5
    scores = {kind: torch.full((n_layers, n_heads, n_layers, n_heads), torch.nan) for kind in KINDS}
    grams = [_gram(own.W_V) for own in heads]  # V^T V
    for later, own in enumerate(heads):
        reads = {"q": own.W_Q, "k": own.W_K, "v": own.W_V}
        behind = {"q": _gram(own.W_K), "k": _gram(own.W_Q), "v": _gram(own.W_O.mT)}
        for earlier in range(later):
            W_O, gram = heads[earlier].W_O, grams[earlier]
            size = _norm(gram, W_O @ W_O.mT)
            for kind, W in reads.items():
                product = torch.einsum("ied,jdf->ijef", W_O, W)
                joint = torch.einsum("iab,ijbc,jcd,ijad->ij", gram, product, behind[kind], product)
                total = joint.clamp_min(0).sqrt() / (size[:, None] * _norm(_gram(W), behind[kind]))
                scores[kind][earlier, :, later] = (total - baseline).float().cpu()
    return Composition(**scores, baseline=baseline)


def _gram(W: Float[Tensor, "head d e"]) -> Float[Tensor, "head e e"]:
    return W.mT @ W


def _norm(left: Float[Tensor, "head e e"], right: Float[Tensor, "head e e"]) -> Float[Tensor, " head"]:
    """‖A B‖_F from A^T A and B B^T."""
    return (left * right).sum((1, 2)).sqrt()
