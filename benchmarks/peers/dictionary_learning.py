"""dictionary_learning's trainers, as the peer of `benchmarks/sae_training.py`.

They hold decoder rows at norm one after every step, so that only the first step computes what ours does.
"""

from collections.abc import Callable

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from saes.config import TrainConfig

CLASSES = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}
AGREES = "at the first step"


def stepper(config: TrainConfig, weights: dict[str, Tensor]) -> Callable[[Tensor], float]:
    """The trainer's own update, which returns the loss."""
    d_sae, d_in = weights["W_dec"].shape
    trainer = CLASSES[config.architecture](
        steps=config.steps + 2,
        activation_dim=d_in,
        dict_size=d_sae,
        k=config.k,
        layer=0,
        lm_name="none",
        lr=config.lr,
        warmup_steps=0,
        device="cpu",
    )
    with torch.no_grad():
        trainer.ae.encoder.weight.copy_(weights["W_enc"].T)
        trainer.ae.encoder.bias.copy_(weights["b_enc"])
        trainer.ae.decoder.weight.copy_(weights["W_dec"].T)
        trainer.ae.b_dec.copy_(weights["b_dec"])
    return lambda x: trainer.update(1, x)  # its step 0 would set the bias from the batch
