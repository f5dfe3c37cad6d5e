"""Transcoders: the activations at one site from those at another, such as an MLP's output from its input.

Sources: Dunefsky et al. 2024, arXiv:2406.11944; with a linear skip connection, Paulo et al. 2025, arXiv:2501.18823.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.architectures.batchtopk import BatchTopK
from saes.architectures.jumprelu import JumpReLU
from saes.architectures.standard import Standard
from saes.architectures.topk import TopK
from saes.config import TrainConfig
from saes.route import Route, one_site
from saes.sae import SAE, SAEConfig
from saes.sparse import Code, Dense
from workbench.errors import SettingError

MLP_INPUTS = ("hook_resid_mid", "ln2.hook_normalized")
"""Sites of a block from which its MLP's output is computed by nothing but the MLP and its norm."""
MLP_OUTPUT = "hook_mlp_out"


def mlp_output(site: str) -> str | None:
    """The output of the MLP that a site is the input of; None if it is none's."""
    name = next((name for name in MLP_INPUTS if site.endswith(f".{name}")), None)
    return name and site.removesuffix(name) + MLP_OUTPUT


class Transcoding(SAE):
    """What makes a transcoder of any SAE: it reads one site and reconstructs another, as sparsely as the SAE does.

    A training row is the input's activations with the output's beside them.
    """

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        if len(widths) != 2:
            raise SettingError("a transcoder is trained on the activations of two sites, and this run reads one")
        shape = super().shape(config, widths[:1], metadata)
        return replace(shape, apply_b_dec_to_input=False, d_out=widths[1])

    @classmethod
    def plan(cls, config: TrainConfig, known: Sequence[str]) -> Route:
        read = one_site(config.site, known, cls.architecture)
        out = config.site_out or mlp_output(read)
        if out is None:
            inputs = " and ".join(f"blocks.*.{name}" for name in MLP_INPUTS)
            raise SettingError(f"{cls.architecture} needs site_out, the site it writes: only {inputs} have a default")
        written = one_site(out, known, cls.architecture)
        if known.index(written) <= known.index(read):
            raise SettingError(
                f"a transcoder writes what comes of what it reads, and {written} is not computed after {read}"
            )
        return Route((read,), (written,))

    @property
    def route(self) -> Route:
        written = self.cfg.metadata.get("hook_name_out")
        return Route(super().route.reads, (written,) if written else ())

    def split(self, rows: Float[Tensor, "*batch width"]) -> tuple[Tensor, Tensor]:
        return rows[..., : self.cfg.d_in], rows[..., self.cfg.d_in :]

    @property
    def widths(self) -> tuple[int, ...]:
        return self.cfg.d_in, self.cfg.d_out


class Skipping(Transcoding):
    """A transcoder with x @ W_skip.T added: what is linear need not be spelt out in latents."""

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__(cfg)
        self.W_skip = nn.Parameter(torch.zeros(cfg.d_out, cfg.d_in))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return super().forward(x) + x @ self.W_skip.T

    def reconstruct(self, x: Float[Tensor, "rows d_in"], active: Code | Dense) -> Float[Tensor, "rows d_out"]:
        return super().reconstruct(x, active) + x @ self.W_skip.T

    @torch.no_grad()
    def fold(self, scale: Float[Tensor, " width"] | float) -> SAE:
        super().fold(scale)
        read, written = self.split(torch.as_tensor(scale, device=self.b_dec.device).expand(self.width))
        self.W_skip.mul_(read / written[:, None])
        return self


class Transcoder(Transcoding, Standard):
    """relu(x @ W_enc + b_enc) @ W_dec + b_dec, under the penalty of a standard SAE."""

    architecture = "transcoder"


class SkipTranscoder(Skipping, Standard):
    architecture = "skip_transcoder"


class JumpReLUTranscoder(Transcoding, JumpReLU):
    architecture = "jumprelu_transcoder"


class JumpReLUSkipTranscoder(Skipping, JumpReLU):
    architecture = "jumprelu_skip_transcoder"


class TopKTranscoder(Transcoding, TopK):
    """Of these SAELens has no kind; the others it opens."""

    architecture = "topk_transcoder"


class TopKSkipTranscoder(Skipping, TopK):
    architecture = "topk_skip_transcoder"


class BatchTopKTranscoder(Transcoding, BatchTopK):
    architecture = "batchtopk_transcoder"
    used_as = JumpReLUTranscoder


class BatchTopKSkipTranscoder(Skipping, BatchTopK):
    architecture = "batchtopk_skip_transcoder"
    used_as = JumpReLUSkipTranscoder
