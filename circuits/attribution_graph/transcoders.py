"""Transcoders in a model: which layer each belongs to, and what they make of the activations there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.latents import latents_by_layer
from saes.architectures.transcoder import MLP_INPUTS, mlp_output
from saes.sae import SAE
from saes.storage import load_saes
from workbench.activations import special_ids
from workbench.errors import SettingError
from workbench.model import HookedModel

Transcoders = Mapping[int, SAE]
"""By layer."""


def read_transcoders(directories: Sequence[str | Path], model: HookedModel) -> dict[int, SAE]:
    """Transcoders from their directories, or from one that holds the directories of several.

    Raises `DamagedFile` and what `by_layer` raises.
    """
    return by_layer(load_saes(directories, model.device), model)


def by_layer(transcoders: Sequence[SAE], model: HookedModel) -> dict[int, SAE]:
    """The transcoders by the layer whose MLP they stand for.

    Raises `SettingError` for one that reads or writes elsewhere, for two of one layer, and for a wrong width.
    """
    for transcoder in transcoders:
        reads, writes = transcoder.route
        if len(reads) != 1 or mlp_output(reads[0]) not in writes:
            wanted = " or ".join(f"blocks.N.{name}" for name in MLP_INPUTS)
            raise SettingError(
                f"an attribution graph takes transcoders from {wanted} to blocks.N.hook_mlp_out; "
                f"this one is from {', '.join(reads) or 'nowhere'} to {', '.join(writes) or 'nowhere'}"
            )
    return latents_by_layer(transcoders, model)


def is_text(model: HookedModel, tokens: Int[Tensor, " pos"]) -> Bool[Tensor, " pos"]:
    """Where a transcoder acts: at every token but special ones, which pass it by as they did in its training."""
    special = torch.tensor(sorted(special_ids(model.tokenizer)), dtype=torch.long, device=tokens.device)
    return ~torch.isin(tokens, special)


def skip(sae: SAE) -> Float[Tensor, "d_out d_in"] | None:
    """The linear map beside the latents of a skip transcoder."""
    return getattr(sae, "W_skip", None)
