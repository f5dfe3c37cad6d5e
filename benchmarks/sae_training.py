"""Training steps of sparse autoencoders, against SAELens, dictionary_learning and sparsify, and against the floor.

    python benchmarks/sae_training.py [--json] [--steps 200] [--threads 1] [--sizes 256x4096 768x16384]
        [--architectures topk batchtopk …] [--peers saelens …] [--exact]

Both sides start from the same weights and take the same batches, in turn: the peer with its trainer's own step, ours
with `Trainer.step` set to the same learning rate. Activations are sparse sums of known directions plus noise. Times are
processor time (with several threads, the sum over them); printed are medians over steps and, as the ratio, the median
of peer time / our time of a step (above 1: ours is faster). Losses must agree to 1e-3: with SAELens at every step, with
the others, which hold decoder norms at one, at the first. The floor is the encoder's one dense product: printed as our
time / its time, which is below 1 where 8-bit bounds stand in for it; `--exact` does without them.

Memory is the peak of a process of its own that takes three steps, less what it held before: weights, gradients,
moments and all. A peer that is not installed is left out. dictionary_learning and sparsify 1.3 need an environment of
their own with this project's packages in it.
"""

import argparse
import importlib
import multiprocessing
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from support.pairs import Comparison, figures, in_turn, report, timed
from torch import Tensor

from saes.config import TrainConfig
from saes.trainer import Trainer

BATCH, K, LR, TOLERANCE = 4096, 32, 3e-4, 1e-3
ARCHITECTURES = ("topk", "batchtopk", "standard", "jumprelu", "gated")
PEERS = ("saelens", "dictionary_learning", "sparsify")
SPARSE = 0.015
"""L0 as a fraction of d_sae that architectures with a threshold begin at, as they are for most of a training."""
MEMORY_STEPS = 3


@dataclass(frozen=True)
class Training(Comparison):
    """Seconds a step, and what else was seen."""

    over_floor: float
    """Our time / the time of the encoder's product."""
    tokens_per_second: float
    l0: float
    difference: float
    """The largest relative difference between the losses of a step that should be equal."""
    compared: str
    memory: float
    """The peer's peak memory / ours."""

    def __str__(self) -> str:
        return (
            f"{self.name}: ours {self.ours:.3f} s, peer {self.peer:.3f} s, ratio {self.ratio:.2f}, "
            f"{self.over_floor:.2f} of the floor, {self.tokens_per_second:,.0f} tokens/s, "
            f"peer's memory {self.memory:.2f} of ours, L0 {self.l0:.0f}, "
            f"losses within {self.difference:.1e} {self.compared}, equal: {self.equal}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--sizes", nargs="+", default=["256x4096", "768x16384"], help="d_in x d_sae")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--exact", action="store_true", help="no 8-bit bounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    for size in options.sizes:
        d_in, d_sae = map(int, size.split("x"))
        for architecture in options.architectures:
            config = settings(architecture, d_sae, options.steps, options.batch, screening=not options.exact)
            for name in options.peers:
                try:
                    peer = importlib.import_module(f"peers.{name}")
                except ImportError as error:
                    print(f"{name} left out: {error}")
                    continue
                if architecture in peer.CLASSES:
                    report(compare(config, d_in, name, options.threads), options.json)


def compare(config: TrainConfig, d_in: int, peer_name: str, threads: int) -> Training:
    peer = importlib.import_module(f"peers.{peer_name}")
    batches = rows(d_in, config.batch_size)
    trainer = ours(config, next(batches))
    peer_step = peer.stepper(config, dict(trainer.sae.named_parameters()))
    own, theirs, floors, l0, differences = [], [], [], [], []
    for i in range(config.steps):
        x = next(batches)
        results, seconds = in_turn({"ours": lambda x=x: trainer.step(x)[1], "peer": lambda x=x: peer_step(x)}, i)
        own.append(seconds["ours"])
        theirs.append(seconds["peer"])
        floors.append(timed(lambda x=x: x @ trainer.sae.W_enc.detach())[1])
        differences.append(abs(results["ours"].loss.item() / results["peer"] - 1))
        l0.append(results["ours"].l0.item())
    difference = max(differences if peer.AGREES == "at every step" else differences[:1])
    memory = {side: peak_memory(config, d_in, side, threads) for side in ("ours", peer_name)}
    return Training(
        name=f"{config.architecture}, d_in {d_in}, d_sae {config.d_sae:,}, {peer_name}",
        **figures(own, theirs),
        equal=difference < TOLERANCE,
        over_floor=statistics.median(a / f for a, f in zip(own, floors, strict=True)),
        tokens_per_second=config.batch_size / statistics.median(own),
        l0=statistics.mean(l0),
        difference=difference,
        compared=peer.AGREES,
        memory=memory[peer_name] / memory["ours"],
    )


def settings(architecture: str, d_sae: int, steps: int, batch: int, screening: bool) -> TrainConfig:
    return TrainConfig(
        site="benchmark",
        out=Path("unused"),
        architecture=architecture,
        d_sae=d_sae,
        k=K,
        l1_coefficient=1.0,
        penalty="l0",
        l0_coefficient=1.0,
        pre_act_coefficient=0.0,
        threshold=0.01,
        bandwidth=0.05,
        tokens=batch * steps,
        batch_size=batch,
        lr=LR,
        warm_up=0.0,
        decay=0.0,
        buffer=batch,
        dead_after=10**9,
        screening=screening,
    )


def ours(config: TrainConfig, sample: Tensor) -> Trainer:
    """A trainer that starts from a centre of 0 and a scale and unit of 1, where all sides agree."""
    trainer = Trainer(config, sample, {})
    trainer.scale = torch.ones(sample.shape[1])
    sae = trainer.sae
    with torch.no_grad():
        sae.b_dec.zero_()
        if config.architecture == "jumprelu":
            sae.cfg = replace(sae.cfg, unit=1.0)
            sae.threshold.fill_(config.threshold)
        if config.architecture in ("standard", "jumprelu", "gated"):
            pre = sample[:512] @ sae.W_enc
            bias = sae.b_gate if config.architecture == "gated" else sae.b_enc
            bias.fill_(-pre.flatten().topk(int(SPARSE * pre.numel())).values.min())
    return trainer


def rows(d_in: int, batch: int) -> Iterator[Tensor]:
    """Batches of activations with a mean norm of about sqrt(d_in): 24 of 2,048 directions, and noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2048, d_in, generator=generator) / d_in**0.5
    while True:
        chosen = torch.randint(0, len(directions), (batch, 24), generator=generator)
        strengths = torch.rand(batch, 24, generator=generator) * (d_in / 12) ** 0.5
        signal = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
        yield signal + 0.3 * torch.randn(batch, d_in, generator=generator)


def peak_memory(config: TrainConfig, d_in: int, side: str, threads: int) -> int:
    """Peak bytes of a few steps of one side."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(config, d_in, side, threads, send))
    process.start()
    send.close()
    peak = receive.recv()
    process.join()
    return peak


def _measure(config: TrainConfig, d_in: int, side: str, threads: int, send) -> None:
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    batches = rows(d_in, config.batch_size)
    peer = None if side == "ours" else importlib.import_module(f"peers.{side}")
    sample = next(batches)
    before = _kilobytes("VmRSS")
    trainer = ours(config, sample)
    step: Callable[[Tensor], object] = trainer.step
    if peer:
        step = peer.stepper(config, dict(trainer.sae.named_parameters()))
        del trainer
    for _ in range(MEMORY_STEPS):
        step(next(batches))
    send.send(1024 * (_kilobytes("VmHWM") - before))


def _kilobytes(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what))


if __name__ == "__main__":
    main()
