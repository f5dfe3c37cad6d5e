"""A latent's direction: what its SAE writes more when it fires."""

import pytest
import torch

from saes.architectures.topk import TopK
from saes.directions import latent_direction
from saes.sae import SAEConfig
from workbench.errors import SettingError
from workbench.steering import steering_edit

SITE = "blocks.1.hook_resid_post"


def test_steering_by_a_latent_adds_its_decoder_row(model, prompt):
    sae = TopK(SAEConfig(32, 64, 8, metadata={"hook_name": SITE})).initialise(torch.zeros(32), 0)
    direction = latent_direction(sae, model, 5, activation=3.0)
    torch.testing.assert_close(direction.vector, 3 * sae.W_dec[5].detach(), atol=1e-6, rtol=1e-5)
    plain, steered = (
        model.run(prompt, capture=[SITE], edits=edits)[SITE] for edits in ([], [steering_edit(direction, 2)])
    )
    torch.testing.assert_close(steered - plain, (6 * sae.W_dec[5].detach()).expand_as(plain), atol=1e-4, rtol=1e-3)
    assert str(direction).startswith(f"latent 5 at {SITE}, by decoder")
    with pytest.raises(SettingError, match="no latent 64; this SAE has 0 to 63"):
        latent_direction(sae, model, 64)
