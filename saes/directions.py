"""A latent's decoder direction, to steer with."""

import torch

from saes.route import check_route
from saes.sae import SAE
from workbench.directions import Direction
from workbench.errors import SettingError
from workbench.model import HookedModel


@torch.no_grad()
def latent_direction(sae: SAE, model: HookedModel, latent: int, *, activation: float | int = 1.0) -> Direction:
    """What a latent adds to the activation that its SAE writes when it fires at `activation`: where a dose of 1 stands.

    The feature index knows how strongly a latent fires. Raises `SettingError` for a latent that the SAE has not, an SAE
    that writes at several sites, or one of another model.
    """
    check_route(sae, model)
    if len(sae.route.writes) != 1:
        raise SettingError(f"this SAE writes at {len(sae.route.writes)} sites; a direction belongs to one")
    d_sae = sae.W_dec.shape[0]
    if not 0 <= latent < d_sae:
        raise SettingError(f"there is no latent {latent}; this SAE has 0 to {d_sae - 1}")
    latents = torch.zeros(2, d_sae, device=sae.W_dec.device, dtype=sae.W_dec.dtype)
    latents[1, latent] = activation
    without, written = sae.decode(latents).float().cpu()
    source = {"activation": float(activation), "architecture": sae.architecture}
    site = sae.route.writes[0]
    return Direction(f"latent {latent}", written - without, site, "decoder", model.fingerprint, source=source)
