"""The sparse autoencoder: parameters, decoding, initialisation and folding, shared by every architecture.

An SAE acts on tokens of text only. Beginning-of-sequence and other special tokens are left out of its training, its
statistics and its index, and pass through unchanged where it is spliced into a model: their activations are outliers
(norms up to hundreds of times those of other tokens) that a sparse code of text should not spend latents on. The
saved SAE says so in `metadata.exclude_special_tokens`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saes.config import TrainConfig


@dataclass(frozen=True)
class SAEConfig:
    """What an SAE is: its shape, and where it came from."""

    d_in: int
    d_sae: int
    k: int | None = None
    """Active latents per token, for architectures that fix it."""
    apply_b_dec_to_input: bool = True
    """Whether the decoder's bias is subtracted from the input before encoding."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """SAELens metadata: hook_name, model_name, context_size, dataset_path…"""


@dataclass(frozen=True)
class Signals:
    """What the training loop tells an SAE at each step."""

    dead: Int[Tensor, " n_dead"]
    """The latents that have not fired for `dead_after` tokens."""
    sparsity: float
    """How much of the sparsity penalty is in force: 0 to 1, during warm-up."""


@dataclass(frozen=True)
class Step:
    """What an SAE answers: the loss to be minimised, and what came of the batch."""

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, "rows d_in"]
    fired: Bool[Tensor, " d_sae"]
    l0: Float[Tensor, ""]


class SAE(nn.Module, ABC):
    """Base of every architecture, which adds `encode` and `train_step`.

    `W_enc` [d_in, d_sae] is a transposed view of [d_sae, d_in] memory, so that the weights of one latent lie together
    in both matrices.
    """

    architecture: ClassVar[str]

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_enc = nn.Parameter(torch.zeros(cfg.d_sae, cfg.d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(cfg.d_sae, cfg.d_in))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))

    @property
    def site(self) -> str:
        """Where in the model the SAE belongs; empty if its file did not say."""
        return self.cfg.metadata.get("hook_name") or ""

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The latents' activations, in units of the activation space where the decoder has unit norm."""

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return self.decode(self.encode(x))

    @abstractmethod
    def train_step(self, x: Float[Tensor, "rows d_in"], config: TrainConfig, signals: Signals) -> Step:
        """The loss of a batch (in the scale of `norm_scale`), with gradients to every parameter."""

    def constrain_gradient(self) -> None:
        """Called between the backward pass and the optimiser's step."""

    def constrain(self) -> None:
        """Called after the optimiser's step."""

    @property
    def encoder_bias(self) -> Float[Tensor, " d_sae"]:
        """The bias to add to `x @ W_enc`: b_enc, less b_dec @ W_enc where b_dec is subtracted from the input.

        (x - b_dec) @ W_enc + b_enc would need the gradient of the whole input to reach b_dec: one more dense product.
        """
        return self.b_enc - self.b_dec @ self.W_enc if self.cfg.apply_b_dec_to_input else self.b_enc

    @torch.no_grad()
    def initialise(self, centre: Float[Tensor, " d_in"], seed: int) -> "SAE":
        """Random unit decoder rows, the encoder their transpose, b_dec the centre of the data.

        Source: Gao et al. 2024, appendix A.1.
        """
        random = torch.randn(self.W_dec.shape, generator=torch.Generator().manual_seed(seed))
        self.W_dec.copy_(random / random.norm(dim=1, keepdim=True))
        self.W_enc.copy_(self.W_dec.T)
        self.b_enc.zero_()
        self.b_dec.copy_(centre)
        return self

    @torch.no_grad()
    def fold(self, scale: float) -> "SAE":
        """Fold the scale of the input and the decoder's norms into the weights.

        An SAE trained on `scale * x` becomes one that takes and returns `x`, with the same reconstruction and unit
        decoder rows: activation i is multiplied by |W_dec[i]| / scale. For ReLU and for equal norms this is exact.
        """
        norms = self.W_dec.norm(dim=1).clamp_min(torch.finfo(self.W_dec.dtype).tiny)
        self.W_dec.div_(norms[:, None])
        self.W_enc.mul_(norms)
        self.b_enc.mul_(norms / scale)
        self.b_dec.div_(scale)
        return self


def geometric_median(rows: Float[Tensor, "rows d_in"], iterations: int = 50) -> Float[Tensor, " d_in"]:
    """The point with the least summed distance to the rows, which outliers hardly move. Weiszfeld's algorithm."""
    median = rows.mean(0)
    for _ in range(iterations):
        weights = 1 / (rows - median).norm(dim=1).clamp_min(1e-8)
        median = weights @ rows / weights.sum()
    return median


def norm_scale(rows: Float[Tensor, "rows d_in"], centre: Float[Tensor, " d_in"]) -> float:
    """The factor that brings the rows' mean distance from the centre to sqrt(d_in), so that losses compare.

    Source: Anthropic, April 2024 update; there from the origin, which makes the penalty too strong where the mean is
    large.
    """
    return rows.shape[1] ** 0.5 / (rows - centre).norm(dim=1).mean().item()


def normalized_error(reconstruction: Float[Tensor, "rows d_in"], x: Float[Tensor, "rows d_in"]) -> Float[Tensor, ""]:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean|^2, the mean taken over these rows."""
    return (reconstruction - x).square().sum() / (x - x.mean(0)).square().sum()
