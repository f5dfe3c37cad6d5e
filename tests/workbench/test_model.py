"""The hooked model computes what Hugging Face computes."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workbench.model import HookedModel


def test_logits_are_those_of_hugging_face(model: HookedModel, reference: PreTrainedModel, prompt: Tensor) -> None:
    torch.testing.assert_close(model.run(prompt).logits, reference(prompt).logits, atol=1e-5, rtol=0)
