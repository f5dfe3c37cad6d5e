"""One SAE in fine-tuning, a batch of tokens at a time. Knows nothing of files.

The loss is that of Karvonen 2025 (arXiv:2503.17272): a prediction loss of the model with the SAE spliced in, scaled at
every step to be as large as the reconstruction error, and that error. Gradients reach the SAE alone, through the part
of the model that follows it. Decoder rows keep their norms. `saes.hold` holds the number of active latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.config import FinetuneConfig
from saes.evaluation import of_text, on_text
from saes.hold import hold_for, l0
from saes.sae import SAE, norm_scale, normalized_error
from saes.sparse import Code, Dense
from workbench.edits import splice
from workbench.model import HookedModel
from workbench.moments import moments, restore_moments, under


@dataclass(frozen=True)
class FinetuneMetrics:
    """One line of metrics.jsonl; all are those of that step's batch."""

    step: int
    tokens: int
    """Read so far, special ones included."""
    loss: float
    kl: float
    """KL divergence of the spliced model's predictions from the untouched one's, in nats per predicted token."""
    ce: float
    """Cross-entropy with the SAE spliced in, likewise."""
    fvu: float
    l0: float
    l0_before: float
    """Active latents of the SAE as it was."""
    lr: float


class Reconstruction:
    """An SAE that remembers what it was given last, and what it made of it."""

    x: Float[Tensor, "rows d_in"]
    x_hat: Float[Tensor, "rows d_in"]
    active: Code | Dense

    def __init__(self, sae: SAE) -> None:
        self.sae = sae

    def __call__(self, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_in"]:
        self.x, (_, self.active) = x, self.sae.code(x)
        self.x_hat = self.sae.reconstruct(x, self.active)
        return self.x_hat


@dataclass(frozen=True)
class Losses:
    """What splicing an SAE in costs on a batch: nats per predicted token, and a fraction of variance."""

    kl: Float[Tensor, ""]
    ce: Float[Tensor, ""]
    fvu: Float[Tensor, ""]

    def total(self, loss: str, reconstruction_weight: float) -> Float[Tensor, ""]:
        """The weighted mean of the prediction loss, times fvu / KL as a constant, and the reconstruction error.

        The cross-entropy is scaled by the KL as well: most of it is the model's own, and no measure of what is lost.
        """
        scale = (self.fvu / self.kl.clamp_min(torch.finfo(self.kl.dtype).tiny)).detach()
        prediction = scale * {"kl": self.kl, "ce": self.ce}[loss]
        return (prediction + reconstruction_weight * self.fvu) / (1 + reconstruction_weight)


def splice_losses(
    model: HookedModel,
    reconstruction: Reconstruction,
    tokens: Int[Tensor, "batch pos"],
    keep: Bool[Tensor, "batch pos"],
) -> Losses:
    """Run tokens without and with the reconstructions at `keep`; differentiable in the SAE's parameters."""
    clean = of_text(model.run(tokens).logits, keep)
    edit = splice(reconstruction.sae.site, on_text(reconstruction, keep))
    spliced = of_text(model.run(tokens, edits=[edit], grad=True).logits, keep)
    return Losses(
        kl=F.kl_div(spliced, clean, log_target=True, reduction="sum") / len(clean),
        ce=F.nll_loss(spliced, tokens[:, 1:][keep[:, 1:]]),
        fvu=normalized_error(reconstruction.x_hat, reconstruction.x),
    )


class Finetuner:
    """An SAE in fine-tuning: its weights, its optimiser, and what holds its sparsity."""

    def __init__(
        self,
        config: FinetuneConfig,
        sae: SAE,
        model: HookedModel,
        sample: Float[Tensor, "rows d_in"],
        metadata: Mapping[str, Any],
    ) -> None:
        """`sample` are activations at the SAE's site. `sae` is left as it is; `metadata` is added to that of its copy.

        Biases are in the units of activations, and learn at a rate that is so too.
        """
        self.config, self.model, self.before = config, model, sae.for_use()
        self.sae = sae.for_use()
        self.sae.cfg = replace(self.sae.cfg, metadata=dict(self.sae.cfg.metadata) | dict(metadata))
        self._norms: Float[Tensor, "d_sae 1"] = self.sae.W_dec.norm(dim=1, keepdim=True)
        self.hold = hold_for(self.sae)
        self._learnt = {name: one for name, one in self.sae.named_parameters() if name not in self.hold.sets}
        unit = 1 / norm_scale(sample.float(), sample.float().mean(0))
        self._rates = [config.lr * (unit if name.startswith("b_") else 1.0) for name in self._learnt]
        self.optimizer = torch.optim.Adam([{"params": [one.requires_grad_()]} for one in self._learnt.values()])
        self.steps = 0
        self.tokens = 0

    def step(self, tokens: Int[Tensor, "batch pos"], keep: Bool[Tensor, "batch pos"]) -> FinetuneMetrics:
        """One step of Adam on a batch of contexts, of which `keep` says which positions hold text."""
        left = 1 - self.steps / self.config.steps
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * left
        reconstruction = Reconstruction(self.sae)
        tokens, keep = tokens.to(self.model.device), keep.to(self.model.device)
        losses = splice_losses(self.model, reconstruction, tokens, keep)
        active = reconstruction.active
        with torch.no_grad():
            _, before = self.before.code(reconstruction.x)
        loss = losses.total(self.config.loss, self.config.reconstruction_weight)
        loss = loss + self.hold.penalty(loss, active, before)
        self.optimizer.zero_grad()
        loss.backward(inputs=list(self._learnt.values()))
        self.optimizer.step()
        self.hold.follow(active, before)
        with torch.no_grad():
            self.sae.W_dec.mul_(self._norms / self.sae.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
        self.steps += 1
        self.tokens += tokens.numel()
        return FinetuneMetrics(
            step=self.steps,
            tokens=self.tokens,
            loss=loss.item(),
            kl=losses.kl.item(),
            ce=losses.ce.item(),
            fvu=losses.fvu.item(),
            l0=l0(active),
            l0_before=l0(before),
            lr=self.config.lr * left,
        )

    @property
    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.sae.parameters())

    def folded(self) -> SAE:
        """A copy of the SAE, to be saved."""
        return self.sae.for_use()

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, as tensors to save."""
        own = {"steps": torch.tensor(self.steps), "tokens": torch.tensor(self.tokens)}
        weights = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        return own | weights | moments(self._learnt, self.optimizer) | self.hold.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a fine-tuner with the same configuration."""
        self.steps, self.tokens = (state[name].item() for name in ("steps", "tokens"))
        self.sae.load_state_dict(under("sae.", state))
        restore_moments(self._learnt, self.optimizer, state)
        self.hold.restore(state)
