"""Training steps of sparse autoencoders, against SAELens' own training classes and trainer, and against the floor.

    python benchmarks/sae_training.py [--json] [--steps 200] [--threads 1] [--small] [--architectures topk batchtopk]

Both sides start from the same weights and take the same batches, turn about: SAELens with its trainer's own step (Adam,
gradients clipped to norm 1, statistics of firing), ours with `Trainer.step` set to the same learning rate. Activations
are sparse sums of known directions plus noise. Times are processor time; printed are medians over steps and, as the
ratio, the median of peer time / our time of a step (above 1: ours is faster). Losses must agree to 1e-3 at every
step. The floor is the encoder's one dense product, which no exact method avoids: printed as our time / its time.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from saes.config import TrainConfig
from saes.trainer import Trainer

BATCH, K, LR, TOLERANCE = 4096, 32, 3e-4, 1e-3
SIZES = ((256, 4096), (768, 16384))
THEIRS = {"topk": "TopK", "batchtopk": "BatchTopK", "standard": "Standard", "jumprelu": "JumpReLU"}
SPARSE = 0.02
"""L0 as a fraction of d_sae that architectures with a threshold begin at, as they are for most of a training."""


@dataclass(frozen=True)
class Comparison:
    name: str
    ours: float
    """Seconds a step, median."""
    peer: float
    ratio: float
    equal: bool
    over_floor: float
    """Our time / the time of the encoder's product."""
    tokens_per_second: float
    l0: float
    difference: float
    """The largest relative difference between the losses of a step."""

    def __str__(self) -> str:
        return (
            f"{self.name}: ours {self.ours:.3f} s, peer {self.peer:.3f} s, ratio {self.ratio:.2f}, "
            f"{self.over_floor:.2f} of the floor, {self.tokens_per_second:,.0f} tokens/s, L0 {self.l0:.0f}, "
            f"losses within {self.difference:.1e}, equal: {self.equal}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--small", action="store_true", help="only d_in 256, d_sae 4,096")
    parser.add_argument("--architectures", nargs="+", choices=THEIRS, default=list(THEIRS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    for d_in, d_sae in SIZES[: 1 if options.small else None]:
        for architecture in options.architectures:
            comparison = compare(architecture, d_in, d_sae, options.steps, options.batch)
            print(json.dumps(asdict(comparison)) if options.json else comparison, flush=True)
            assert comparison.equal, f"{comparison.name}: the sides computed different things"


def compare(architecture: str, d_in: int, d_sae: int, steps: int, batch: int) -> Comparison:
    batches = rows(d_in, batch)
    trainer = ours(architecture, d_in, d_sae, steps, batch, next(batches))
    peer_step = peer(architecture, trainer, next(batches), steps)
    own, theirs, floors, l0, difference = [], [], [], [], 0.0
    for i in range(steps):
        x = next(batches)
        results = {}
        sides: dict[str, Callable] = {"ours": lambda x=x: trainer.step(x)[1], "peer": lambda x=x: peer_step(x)}
        for side in sorted(sides, reverse=i % 2 == 0):
            results[side], seconds = timed(sides[side])
            (own if side == "ours" else theirs).append(seconds)
        floors.append(timed(lambda x=x: torch.addmm(trainer.sae.b_enc.detach(), x, trainer.sae.W_enc.detach()))[1])
        loss, reference = results["ours"].loss.item(), results["peer"]
        difference = max(difference, abs(loss - reference) / abs(reference))
        l0.append(results["ours"].l0.item())
    return Comparison(
        name=f"{architecture}, d_in {d_in}, d_sae {d_sae:,}",
        ours=statistics.median(own),
        peer=statistics.median(theirs),
        ratio=statistics.median(b / a for a, b in zip(own, theirs, strict=True)),
        equal=difference < TOLERANCE,
        over_floor=statistics.median(a / f for a, f in zip(own, floors, strict=True)),
        tokens_per_second=batch / statistics.median(own),
        l0=statistics.mean(l0),
        difference=difference,
    )


def ours(architecture: str, d_in: int, d_sae: int, steps: int, batch: int, sample: Tensor) -> Trainer:
    config = TrainConfig(
        site="benchmark",
        out=Path("unused"),
        architecture=architecture,
        d_sae=d_sae,
        k=K,
        l1_coefficient=1.0,
        l0_coefficient=1.0,
        pre_act_coefficient=0.0,
        threshold=0.01,
        bandwidth=0.05,
        tokens=batch * (steps + 1),
        batch_size=batch,
        lr=LR,
        warm_up=0.0,
        decay=0.0,
        buffer=batch,
        dead_after=10**9,
    )
    trainer = Trainer(config, sample, {})
    trainer.scale = torch.ones(d_in)
    with torch.no_grad():
        trainer.sae.b_dec.zero_()
        if architecture in ("standard", "jumprelu"):
            pre = sample[:512] @ trainer.sae.W_enc
            trainer.sae.b_enc.fill_(-pre.flatten().topk(int(SPARSE * pre.numel())).values.min())
    return trainer


def peer(architecture: str, trainer: Trainer, sample: Tensor, steps: int) -> Callable[[Tensor], float]:
    """A step of SAELens' trainer from the same weights, which returns the loss."""
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    d_sae, d_in = trainer.sae.W_dec.shape
    settings = {
        "topk": {"k": K},
        "batchtopk": {"k": K},
        "standard": {"l1_coefficient": 1.0},
        "jumprelu": {"l0_coefficient": 1.0},
    }[architecture]
    name = f"{THEIRS[architecture]}TrainingSAE"
    sae = getattr(sae_lens, name)(getattr(sae_lens, f"{name}Config")(d_in=d_in, d_sae=d_sae, **settings))
    with torch.no_grad():
        own = dict(trainer.sae.named_parameters())
        for key, parameter in sae.named_parameters():
            parameter.copy_(own[key])
    config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=len(sample) * (steps + 1),
        device="cpu",
        autocast=False,
        lr=LR,
        lr_end=LR,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=len(sample),
        dead_feature_window=10**9,
        feature_sampling_window=10**9,
        logger=LoggingConfig(log_to_wandb=False),
    )
    runner = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    return lambda x: runner._train_step(sae=sae, sae_in=x).loss.item()


def rows(d_in: int, batch: int) -> Iterator[Tensor]:
    """Batches of activations with a mean norm of about sqrt(d_in): 24 of 2,048 directions, and noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2048, d_in, generator=generator) / d_in**0.5
    while True:
        chosen = torch.randint(0, len(directions), (batch, 24), generator=generator)
        strengths = torch.rand(batch, 24, generator=generator) * (d_in / 12) ** 0.5
        signal = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
        yield signal + 0.3 * torch.randn(batch, d_in, generator=generator)


def timed(work: Callable) -> tuple[object, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


if __name__ == "__main__":
    main()
