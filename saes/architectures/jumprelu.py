"""JumpReLU: latents above thresholds of their own, which are learnt through straight-through estimators.

Sources: Rajamanoharan et al. 2024, arXiv:2407.14435 (`l0`, `quadratic`); Anthropic, January 2025 update (`tanh`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saes.config import TrainConfig
from saes.sae import SAE, Forward, SAEConfig, Signals
from saes.selection import Above
from saes.sparse import Code, Dense

TANH_SCALE = 4.0
"""How steeply the tanh penalty rises: c of Anthropic's January 2025 update."""


class JumpReLU(SAE):
    """pre-activation where that is above the latent's threshold (and positive), else 0.

    A threshold has a gradient from the pre-activations within half a bandwidth of it. With the `l0` and `quadratic`
    penalties the estimators reach thresholds alone, as in the paper; with `tanh` they reach the encoder too, as
    Anthropic does it.

    In training, `threshold` is measured in units of sqrt(d_in), the size of an activation. Adam moves every parameter
    by about the learning rate a step: what it does to a pre-activation through `W_enc` is about sqrt(d_in) times that,
    and thresholds that did not keep up would decide how many latents fire long after the rest is learnt.
    """

    architecture = "jumprelu"

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__(cfg)
        self.threshold = nn.Parameter(torch.full((cfg.d_sae,), cfg.threshold / cfg.unit))

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        estimator = {"threshold": config.threshold, "bandwidth": config.bandwidth, "through": config.penalty == "tanh"}
        return replace(super().shape(config, widths, metadata), unit=sum(widths) ** 0.5, **estimator)

    @property
    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """What pre-activations are compared with."""
        return self.threshold * self.cfg.unit

    def code(self, x: Float[Tensor, "rows d_in"]) -> tuple[Code | Dense, Code | Dense]:
        bandwidth = self.cfg.bandwidth
        pre = self.pre_activations(x, Above(self.thresholds.detach() - bandwidth / 2))
        return pre, pre.with_values(jump(pre.values, pre.at(self.thresholds), bandwidth, self.cfg.through))

    def penalty(self, forward: Forward, config: TrainConfig, signals: Signals) -> Float[Tensor, ""]:
        """What active latents cost, and the loss that revives dead ones.

        `l0`: their number; `tanh`: the sum of tanh(4 · activation · decoder norm); `quadratic`: d_in · (L0/k - 1)², L0
        being their mean number over the batch. The paper's activations have a squared norm of 1, these one of d_in.
        """
        pre, active = forward.pre, forward.active
        if config.penalty == "tanh":
            cost = (TANH_SCALE * active.values * active.at(self.norms())).tanh().sum()
        else:
            cost = step(pre.values, pre.at(self.thresholds), self.cfg.bandwidth).sum()
        cost = self.team.from_latents(cost) / active.n_rows
        if config.penalty == "quadratic":
            of_batch = cost + (self.team.mean(cost) - cost).detach()
            cost = self.cfg.d_in * (of_batch / config.k - 1).square()
        loss = config.l0_coefficient * signals.sparsity * cost
        if len(signals.dead) and config.pre_act_coefficient:
            dead = self.team.own(signals.dead, self.cfg.d_sae)
            loss = loss + config.pre_act_coefficient * self.team.from_latents(self.pre_act_loss(forward.x, dead))
        return loss

    def pre_act_loss(self, x: Float[Tensor, "rows d_in"], dead: Int[Tensor, " n_dead"]) -> Float[Tensor, ""]:
        """How far below their thresholds the dead latents are: relu(threshold - pre) times decoder norm, summed over
        them and averaged over rows. Source: Anthropic, January 2025 update; there for all latents.
        """
        centred = x if self.centre is None else x - self.centre
        pre = centred @ self.W_enc[:, dead] + self.b_enc[dead]
        return ((self.thresholds[dead] - pre).relu().sum(0) @ self.norms()[dead]) / len(x)

    @torch.no_grad()
    def constrain(self) -> None:
        """Thresholds stay at or above 0: below it, negative pre-activations would pass."""
        self.threshold.clamp_(min=0.0)

    def _scale_latents(self, norms: Float[Tensor, " d_sae"]) -> None:
        super()._scale_latents(norms)
        self.threshold.mul_(norms * self.cfg.unit)
        self.cfg = replace(self.cfg, unit=1.0)


def jump(pre: Tensor, threshold: Tensor, bandwidth: float, through: bool) -> Tensor:
    """relu(pre) where pre > threshold. The threshold's gradient is -threshold/bandwidth within half a bandwidth of it
    (arXiv:2407.14435, equation 11); with `through`, pre-activations there get the opposite as well.
    """
    return _Jump.apply(pre, threshold.expand_as(pre), bandwidth, through)


def step(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where pre > threshold, else 0. The threshold's gradient is -1/bandwidth within half a bandwidth of it
    (arXiv:2407.14435, equation 12).
    """
    return _Step.apply(pre, threshold.expand_as(pre), bandwidth)


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (pre - threshold).abs() < bandwidth / 2


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth, through):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through = bandwidth, through
        return pre.relu() * (pre > threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        pre, threshold = ctx.saved_tensors
        on_pre = grad * ((pre > threshold) & (pre > 0))
        if not ctx.bandwidth:
            return on_pre, torch.zeros_like(grad), None, None
        estimate = grad * threshold * _window(pre, threshold, ctx.bandwidth) / ctx.bandwidth
        return on_pre + estimate if ctx.through else on_pre, -estimate, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        pre, threshold = ctx.saved_tensors
        return None, -grad * _window(pre, threshold, ctx.bandwidth) / ctx.bandwidth, None
