"""Transcoders and sparse autoencoders whose latents stand for what MLPs write: which layer each of them belongs to."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.transcoder import MLP_INPUTS, MLP_OUTPUT, mlp_output
from saes.sae import SAE
from workbench.errors import SettingError
from workbench.model import HookedModel
from workbench.sites import layer_of
from workbench.tinytown import TRANSCODER_DIR


def transcoder_directories(given: Sequence[str | Path], model: str) -> tuple[str | Path, ...]:
    """Those that are given, or else those that are bundled with the bundled model. Raises `SettingError`."""
    bundled = (TRANSCODER_DIR,) if model == "tinytown" else ()
    if not (given or bundled):
        raise SettingError("--transcoders needs the directories of transcoders trained on this model's MLPs")
    return tuple(given) or bundled


def latents_by_layer(saes: Sequence[SAE], model: HookedModel) -> dict[int, SAE]:
    """Transcoders and sparse autoencoders by the layer whose MLP they take apart.

    Raises `SettingError` for one that belongs elsewhere, for two of one layer, and for a wrong width.
    """
    placed: dict[int, SAE] = {}
    for sae in saes:
        reads, writes = sae.route
        at_output = reads == writes and len(reads) == 1 and reads[0].endswith(f".{MLP_OUTPUT}")
        of_mlp = len(reads) == 1 and len(writes) == 1 and mlp_output(reads[0]) == writes[0]
        if not (at_output or of_mlp):
            inputs = " or ".join(f"blocks.N.{name}" for name in MLP_INPUTS)
            raise SettingError(
                f"latents are nodes where an MLP writes: of an SAE at blocks.N.{MLP_OUTPUT}, or of a transcoder from "
                f"{inputs} to there; this one is at {sae.site or 'no known site'}"
            )
        if missing := {*reads, *writes} - set(model.sites):
            raise SettingError(f"{model.info.name} has no {min(missing)}, where these latents are")
        layer = layer_of(reads[0])
        if layer in placed:
            raise SettingError(f"two sets of latents for the MLP of layer {layer}; give one for each layer")
        widths = {sae.cfg.d_in, sae.cfg.d_out or sae.cfg.d_in}
        if widths != {model.info.d_model}:
            wide = " to ".join(map(str, sorted(widths)))
            raise SettingError(f"the latents of layer {layer} are {wide} wide, the model is {model.info.d_model}")
        placed[layer] = sae
    return dict(sorted(placed.items()))


@torch.no_grad()
def encode(sae: SAE, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d_sae"]:
    """The latents of activations, on the device of the activations."""
    return sae.encode(x.to(sae.b_dec)).to(x.device)
