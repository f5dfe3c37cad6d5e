"""SAELens' training classes and trainer, as the peer of `benchmarks/sae_training.py`."""

from collections.abc import Callable

import sae_lens
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from saes.config import TrainConfig

CLASSES = {
    "topk": ("TopK", {"k"}),
    "batchtopk": ("BatchTopK", {"k"}),
    "standard": ("Standard", {"l1_coefficient"}),
    "gated": ("Gated", {"l1_coefficient"}),
    "jumprelu": ("JumpReLU", {"l0_coefficient"}),
}
AGREES = "at every step"


def stepper(config: TrainConfig, weights: dict[str, Tensor]) -> Callable[[Tensor], float]:
    """A step of its trainer (Adam, gradients clipped to norm 1, statistics of firing), which returns the loss."""
    d_sae, d_in = weights["W_dec"].shape
    kind, settings = CLASSES[config.architecture]
    shape = getattr(sae_lens, f"{kind}TrainingSAEConfig")
    own = {name: getattr(config, name) for name in settings}
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(shape(d_in=d_in, d_sae=d_sae, **own))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(weights[name])
    trainer = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=config.tokens,
        device="cpu",
        autocast=False,
        lr=config.lr,
        lr_end=config.lr,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=config.batch_size,
        dead_feature_window=10**9,
        feature_sampling_window=10**9,
        logger=LoggingConfig(log_to_wandb=False),
    )
    runner = SAETrainer(cfg=trainer, sae=sae, data_provider=iter(()))
    return lambda x: runner._train_step(sae=sae, sae_in=x).loss.item()
