"""Activations whose true features are known."""

import torch
from jaxtyping import Float
from torch import Tensor


class Dictionary:
    """Unit directions in superposition: each row is the mean plus a few directions, each with a strength of 1 to 2."""

    def __init__(self, n_features: int = 96, d_in: int = 48, active: int = 3, seed: int = 2024) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(n_features, d_in, generator=self.generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.mean = torch.randn(d_in, generator=self.generator)
        self.active = active

    def rows(self, n: int) -> Float[Tensor, "rows d_in"]:
        scores = torch.rand(n, len(self.directions), generator=self.generator)
        chosen = scores.topk(self.active).indices
        strengths = 1 + torch.rand(n, self.active, generator=self.generator)
        codes = torch.zeros_like(scores).scatter_(1, chosen, strengths)
        return codes @ self.directions + self.mean

    def recovered(self, W_dec: Float[Tensor, "d_sae d_in"], cosine: float = 0.95) -> float:
        """Fraction of the true directions that some decoder row has a cosine above `cosine` with."""
        unit = W_dec / W_dec.norm(dim=1, keepdim=True)
        return ((self.directions @ unit.T).amax(1) > cosine).float().mean().item()
