"""The sparse autoencoder: parameters, decoding, initialisation and folding, shared by every architecture.

An SAE acts on tokens of text only. Beginning-of-sequence and other special tokens are left out of its training, its
statistics and its index, and pass through unchanged where it is spliced into a model: their activations are outliers
(norms up to hundreds of times those of other tokens) that a sparse code of text should not spend latents on. The
saved SAE says so in `metadata.exclude_special_tokens`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saes.config import TrainConfig
from saes.route import Route, one_site
from saes.selection import Among, Select, encode
from saes.sparse import Code, Dense
from saes.team import ALONE, Team


@dataclass(frozen=True)
class SAEConfig:
    """What an SAE is: its shape, and where it came from."""

    d_in: int
    d_sae: int
    k: float | None = None
    """Active latents per token, for architectures that fix it; a whole number unless it is an average."""
    apply_b_dec_to_input: bool = True
    """Whether the decoder's bias is subtracted from the input before encoding."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """SAELens metadata: hook_name, model_name, context_size, dataset_path…"""
    by_norm: bool = False
    """topk: whether latents are compared by activation times decoder norm, as in training, until the norms are folded.
    """
    d_out: int | None = None
    """The width of what is reconstructed, where that is not the input."""
    widths: tuple[int, ...] = ()
    """crosscoder: the width of each site's part of the input."""
    residual_threshold: float = 0.0
    """matching_pursuit: the norm of the residual at which no further latent is taken."""
    threshold: float = 0.0
    """jumprelu, in training: where the thresholds begin."""
    unit: float = 1.0
    """jumprelu: what its thresholds are measured in; 1 except in training."""
    bandwidth: float = 0.0
    """jumprelu, in training: the width of the window that gradients of a threshold come from."""
    through: bool = False
    """jumprelu, in training: whether those gradients reach the encoder as well."""


@dataclass(frozen=True)
class Signals:
    """What the training loop tells an SAE at each step."""

    dead: Int[Tensor, " n_dead"]
    """The latents that have not fired for `dead_after` tokens."""
    sparsity: float
    """How much of the sparsity penalty is in force: 0 to 1, during warm-up."""


@dataclass(frozen=True)
class Forward:
    """One pass over a batch, for a penalty to look at."""

    x: Float[Tensor, "rows d_in"]
    target: Float[Tensor, "rows d_out"]
    pre: Code | Dense
    """Pre-activations: of every latent that is active, and of those whose gradient a penalty needs."""
    active: Code | Dense
    """The same entries after the activation function."""
    reconstruction: Float[Tensor, "rows d_out"]


@dataclass(frozen=True)
class Step:
    """What an SAE answers: the loss to be minimised, and what came of the batch."""

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, "rows d_out"]
    fired: Bool[Tensor, " d_sae"]
    l0: Float[Tensor, ""]


class SAE(nn.Module, ABC):
    """Base of every architecture, which adds which pre-activations count (`select`), what becomes of them (`activate`)
    and what is asked of them beside reconstruction (`penalty`).

    `W_enc` [d_in, d_sae] is a transposed view of [d_sae, d_in] memory, so that the weights of one latent lie together
    in both matrices. Decoder norms are free in training and folded to one when the SAE is saved; whatever compares or
    penalises latents counts activation times decoder norm, so that shrinking one by growing the other gains nothing.
    """

    architecture: ClassVar[str]
    team: Team = ALONE
    """The processes that train it. Divided among them, `cfg.d_sae` and the weights are those of this one's latents."""

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.screened = False
        """Whether the encoder looks only where 8-bit bounds say that active latents can be: see `saes.screening`."""
        d_out = cfg.d_out or cfg.d_in
        self.W_enc = nn.Parameter(torch.zeros(cfg.d_sae, cfg.d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(cfg.d_sae, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        """The shape of an SAE to be trained as `config` says on rows that hold `widths` values from each site."""
        return SAEConfig(sum(widths), config.d_sae, metadata=metadata)

    @classmethod
    def plan(cls, config: TrainConfig, known: Sequence[str]) -> Route:
        """Where an SAE to be trained as `config` says reads and writes in a model that has the sites `known`.

        Raises `UnknownSite`, and `SettingError` for sites that make no sense.
        """
        site = one_site(config.site, known, cls.architecture)
        return Route((site,), (site,))

    @property
    def route(self) -> Route:
        """Where in the model the SAE belongs; empty as far as its file did not say."""
        return Route.of(self.cfg.metadata)

    @property
    def site(self) -> str:
        """The route in words: for an autoencoder the name of its site, and empty if that is not known."""
        return str(self.route)

    @abstractmethod
    def code(self, x: Float[Tensor, "rows d_in"]) -> tuple[Code | Dense, Code | Dense]:
        """Pre-activations and activations, at the same entries: at least those of all active latents."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The latents' activations; once saved, in units of the activation space."""
        _, active = self.code(x.reshape(-1, self.cfg.d_in))
        return active.to_dense().view(*x.shape[:-1], self.cfg.d_sae)

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.decode(self.encode(x))

    def reconstruct(self, x: Float[Tensor, "rows d_in"], active: Code | Dense) -> Float[Tensor, "rows d_out"]:
        """`forward`, from the code of x."""
        return self.team.from_latents(active.decode(self.W_dec)) + self.b_dec

    def split(self, rows: Float[Tensor, "*batch width"]) -> tuple[Tensor, Tensor]:
        """The part of training rows to read, and the part to reconstruct: for an autoencoder the same."""
        return rows, rows

    def parts(self, written: Float[Tensor, "... d_out"]) -> tuple[Tensor, ...]:
        """Columns of a reconstruction, or of `W_dec`: a part for each site written."""
        return (written,)

    def train_step(self, rows: Float[Tensor, "rows width"], config: TrainConfig, signals: Signals) -> Step:
        """The loss of a batch (in the scale of `norm_scale`), with gradients to every parameter.

        It is the squared error of a row, averaged, plus the architecture's penalty.
        """
        x, target = self.split(rows)
        pre, active = self.code(x)
        reconstruction = self.reconstruct(x, active)
        forward = Forward(x, target, pre, active, reconstruction)
        loss = squared_error(reconstruction, target) + self.penalty(forward, config, signals)
        l0 = (active.values > 0).sum() / active.n_rows
        return Step(loss, reconstruction.detach(), active.fired(), l0)

    def penalty(self, forward: Forward, config: TrainConfig, signals: Signals) -> Float[Tensor, ""] | float:
        return 0.0

    def constrain(self) -> None:
        """Called after the optimiser's step."""

    @property
    def centre(self) -> Float[Tensor, " d_in"] | None:
        """What is subtracted from the input."""
        return self.team.to_latents(self.b_dec) if self.cfg.apply_b_dec_to_input else None

    def pre_activations(
        self,
        x: Float[Tensor, "rows d_in"],
        select: Select,
        bias: Float[Tensor, " d_sae"] | None = None,
        among: Among | None = None,
    ) -> Code | Dense:
        """The selected of (x - centre) @ W_enc + bias; the bias is `b_enc` unless it is given."""
        bias = self.b_enc if bias is None else bias
        return encode(x, self.centre, self.W_enc, bias, select, self.screened, among)

    def norms(self) -> Float[Tensor, " d_sae"]:
        return self.W_dec.norm(dim=1)

    @torch.no_grad()
    def initialise(self, centre: Float[Tensor, " width"], seed: int) -> "SAE":
        """Random unit decoder rows, the encoder their transpose, the biases such that the centre of the data maps to
        itself. Source: Gao et al. 2024, appendix A.1.
        """
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(self.W_dec.shape, generator=generator)
        self.W_dec.copy_(random / random.norm(dim=1, keepdim=True))
        if self.W_enc.shape == self.W_dec.T.shape:
            self.W_enc.copy_(self.W_dec.T)
        else:
            random = torch.randn(self.W_enc.T.shape, generator=generator)
            self.W_enc.copy_((random / random.norm(dim=1, keepdim=True)).T)
        read, written = self.split(centre)
        self.b_dec.copy_(written)
        if not self.cfg.apply_b_dec_to_input:
            self.b_enc.copy_(-(read.to(self.W_enc) @ self.W_enc))
        return self

    def for_use(self) -> "SAE":
        """A copy without gradients, of the architecture that it is used and saved as: the same for most."""
        return self._copy_as(type(self), self.cfg)

    def _copy_as(self, architecture: type["SAE"], cfg: SAEConfig) -> "SAE":
        copy = architecture(cfg).to(self.b_dec.device)
        names = copy.state_dict().keys()
        copy.load_state_dict(
            {name: tensor for name, tensor in self.state_dict().items() if name in names}, strict=False
        )
        return copy.requires_grad_(False)

    @torch.no_grad()
    def fold(self, scale: Float[Tensor, " width"] | float) -> "SAE":
        """Fold the scale of the training rows and the decoder's norms into the weights.

        An SAE trained on `scale * rows` becomes one for `rows`, with the same reconstruction and unit decoder rows.
        Activations are multiplied by the norms: once for all of a column, which leaves what is active as it was.
        """
        read, written = self.split(torch.as_tensor(scale, device=self.b_dec.device).expand(self.width))
        self.W_enc.mul_(read[:, None])
        self.W_dec.div_(written)
        self.b_dec.div_(written)
        norms = self.W_dec.norm(dim=1).clamp_min(torch.finfo(self.W_dec.dtype).tiny)
        self.W_dec.div_(norms[:, None])
        self.W_enc.mul_(norms)
        self._scale_latents(norms)
        return self

    def _scale_latents(self, norms: Float[Tensor, " d_sae"]) -> None:
        """Multiply what is added to or compared with pre-activations by `norms`."""
        self.b_enc.mul_(norms)

    @property
    def widths(self) -> tuple[int, ...]:
        """How much of a training row belongs to each site."""
        return (self.cfg.d_in,)

    @property
    def width(self) -> int:
        """The width of a training row."""
        return sum(self.widths)


def squared_error(reconstruction: Float[Tensor, "rows d"], target: Float[Tensor, "rows d"]) -> Float[Tensor, ""]:
    """|target - reconstruction|^2, averaged over rows."""
    return (reconstruction - target).square().sum() / len(target)


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


def variance(rows: Float[Tensor, "rows d"], team: Team = ALONE) -> Float[Tensor, ""]:
    """|row - mean|^2, averaged over the rows of the team."""
    return team.mean(squared_error(rows, team.mean(rows.mean(0)).expand_as(rows)))


def normalized_error(
    reconstruction: Float[Tensor, "rows d_in"], x: Float[Tensor, "rows d_in"], team: Team = ALONE
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained: mean |x - x_hat|^2 / mean |x - mean|^2, over the rows of the team."""
    return team.mean(squared_error(reconstruction, x)) / variance(x, team)
