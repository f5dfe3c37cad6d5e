"""Transcoders: the activations at one site from those at another, such as an MLP's output from its input.

Sources: Dunefsky et al. 2024, arXiv:2406.11944; with a linear skip connection, Paulo et al. 2025, arXiv:2501.18823.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.architectures.standard import Standard
from saes.config import TrainConfig
from saes.sae import SAEConfig
from saes.sparse import Code, Dense
from workbench.errors import SettingError


class Transcoder(Standard):
    """relu(x @ W_enc + b_enc) @ W_dec + b_dec, under the penalty of a standard SAE.

    A training row is the input's activations with the output's beside them.
    """

    architecture = "transcoder"

    @classmethod
    def shape(cls, config: TrainConfig, widths: tuple[int, ...], metadata: Mapping[str, Any]) -> SAEConfig:
        if len(widths) != 2:
            raise SettingError("a transcoder is trained on the activations of two sites, and this run reads one")
        d_in, d_out = widths
        return SAEConfig(d_in, config.d_sae, apply_b_dec_to_input=False, metadata=metadata, d_out=d_out)

    def split(self, rows: Float[Tensor, "*batch width"]) -> tuple[Tensor, Tensor]:
        return rows[..., : self.cfg.d_in], rows[..., self.cfg.d_in :]

    @property
    def width(self) -> int:
        return self.cfg.d_in + self.cfg.d_out


class SkipTranscoder(Transcoder):
    """A transcoder with x @ W_skip.T added: what is linear need not be spelt out in latents."""

    architecture = "skip_transcoder"

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__(cfg)
        self.W_skip = nn.Parameter(torch.zeros(cfg.d_out, cfg.d_in))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return super().forward(x) + x @ self.W_skip.T

    def reconstruct(self, x: Float[Tensor, "rows d_in"], active: Code | Dense) -> Float[Tensor, "rows d_out"]:
        return super().reconstruct(x, active) + x @ self.W_skip.T

    @torch.no_grad()
    def fold(self, scale: Float[Tensor, " width"] | float) -> "SkipTranscoder":
        super().fold(scale)
        read, written = self.split(torch.as_tensor(scale, device=self.b_dec.device).expand(self.width))
        self.W_skip.mul_(read / written[:, None])
        return self
