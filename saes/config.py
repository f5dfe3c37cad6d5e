"""The options of SAE training and evaluation, which are also the command line. Imports nothing that imports torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from workbench.errors import SettingError

Architecture = Literal[
    "topk",
    "batchtopk",
    "matryoshka",
    "jumprelu",
    "gated",
    "standard",
    "matching_pursuit",
    "transcoder",
    "skip_transcoder",
    "topk_transcoder",
    "topk_skip_transcoder",
    "batchtopk_transcoder",
    "batchtopk_skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
    "crosscoder",
    "batchtopk_crosscoder",
    "jumprelu_crosscoder",
]
USE_K = ("topk", "batchtopk", "matryoshka", "matching_pursuit", "jumprelu")
"""What the names of the architectures that take k begin with."""
DIVIDE_LATENTS = ("topk", "batchtopk", "jumprelu", "standard")


@dataclass(frozen=True)
class TrainConfig:
    """Train a sparse autoencoder on the activations at one site of a model, or a transcoder or crosscoder at several.

    The defaults follow Gao et al. 2024 (arXiv:2406.04093) for `topk` and Anthropic's April 2024 update
    (transformer-circuits.pub/2024/april-update) for `standard`.
    """

    site: str
    """Where the activations come from, such as blocks.2.hook_resid_post. A crosscoder reads all sites of a pattern
    (blocks.*.hook_resid_post) or of a list with commas."""
    out: Path
    """Directory that will hold the SAE, config.yaml, metrics.jsonl, report.json and checkpoints."""
    model: str = "tinytown"
    """The bundled model (tinytown), a Hugging Face directory, or a Hugging Face id."""
    corpus: str | None = None
    """Text to train on: tinytown, a .txt, .jsonl or .parquet file, or a Hugging Face dataset. Default: tinytown."""
    site_out: str | None = None
    """transcoders: the site that is reconstructed from `site`. Default: the MLP's output, blocks.2.hook_mlp_out, where
    `site` is its input, blocks.2.ln2.hook_normalized or blocks.2.hook_resid_mid."""
    architecture: Architecture = "topk"
    """How the SAE is made sparse. topk keeps the k largest latents of a token, batchtopk k on average over a batch,
    matryoshka does so for nested dictionaries; jumprelu learns a threshold for each latent; standard is a ReLU with an
    L1 penalty, gated one whose penalty does not shrink activations; matching_pursuit takes latents one by one.
    transcoders reconstruct one site from another, with a linear map beside the latents where they skip, and crosscoders
    several sites from all of them: sparse as their name begins, or else as standard is."""
    d_sae: int = 1024
    """Number of latents."""
    k: int = 16
    """topk, batchtopk and their kin, matryoshka, matching_pursuit, and jumprelu with the quadratic penalty: how many
    latents may be active for one token."""
    nested_widths: Sequence[int] = ()
    """matryoshka: the widths of the inner dictionaries; default: a 16th, an 8th, a quarter and a half of d_sae."""
    l1_coefficient: float = 2.0
    """standard, gated, transcoder, skip_transcoder, crosscoder: weight of the L1 penalty, with activations scaled to
    lie sqrt(d_in) from their centre on average; wide models bear more (Anthropic: 5)."""
    penalty: Literal["quadratic", "l0", "tanh"] = "quadratic"
    """jumprelu: what is penalised: the square of how far the number of active latents is from k on average, that number
    itself (both DeepMind), or the tanh of activations (Anthropic)."""
    l0_coefficient: float = 1.0
    """jumprelu: weight of that penalty, in the scale of l1_coefficient."""
    threshold: float = 1.0
    """jumprelu: where the thresholds begin."""
    bandwidth: float = 0.5
    """jumprelu: pre-activations within half of it move a threshold (Anthropic: 2)."""
    pre_act_coefficient: float = 0.03
    """jumprelu: weight of the loss that lifts the pre-activations of dead latents (Anthropic, for far longer trainings:
    3e-6)."""
    tokens: int = 500_000
    """How many activations to train on; a corpus that is shorter is read again."""
    batch_size: int = 1024
    """Activations per step."""
    context: int = 128
    """Tokens per sequence that the model reads."""
    lr: float = 2e-3
    """Peak learning rate of Adam (betas 0.9, 0.999)."""
    clip: float = 1.0
    """The norm that gradients are shortened to where they are longer."""
    warm_up: float = 0.05
    """Fraction of the steps over which the learning rate, and the L1 penalty, rise linearly from zero."""
    decay: float = 0.3
    """Fraction of the steps, at the end, over which the learning rate falls linearly to zero."""
    buffer: int = 65_536
    """Activations held in memory to be shuffled."""
    dead_after: int = 50_000
    """A latent that has not fired for so many tokens counts as dead, and is revived (topk and its kin, jumprelu)."""
    aux_coefficient: float = 1 / 32
    """topk, batchtopk and their kin, matryoshka: weight of the auxiliary loss that has dead latents model what live
    ones miss."""
    screening: bool = True
    """Look for active latents by an 8-bit product first, and compute in full what that leaves possible: the same
    latents in less time, on processors that are quick at it. Off: every pre-activation is computed in full."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between two checkpoints, the last two of which are kept until the run is complete; 0: one when it stops."""
    eval_tokens: int = 50_000
    """Held-out tokens that the final report is measured on."""
    log_to: Sequence[Literal["tensorboard", "wandb"]] = ()
    """Where metrics go beside metrics.jsonl, if installed: tensorboard, into its files in `out`, and wandb."""
    seed: int = 0
    """Seeds the weights, the order of the corpus and the shuffling."""
    data_seed: int | None = None
    """Seeds the order of the corpus and the shuffling instead of seed, so that runs may differ in weights alone."""
    cache: str | None = None
    """Directory, or URL such as s3://bucket/name, that keeps activations: what it holds is read, what it lacks is
    harvested and added. Runs on the same model, corpus and data_seed may share it; the SAE is the same with or without.
    """
    device: str | None = None
    """cpu, cuda, mps…; default: the best one there is."""
    parallel: Literal["data", "latents"] = "data"
    """What processes that torchrun started divide among themselves: each batch (data), or the latents with their
    weights, for dictionaries too wide for one device (latents: topk, batchtopk, jumprelu, standard)."""
    overwrite: bool = False
    """Replace the run in `out`."""
    resume: bool = False
    """Go on with the run in `out` where it was stopped, to the very weights and metrics that it would have come to;
    begin it if nothing was saved yet. Only out, device, cache, parallel, log_to, checkpoint_every and eval_tokens may
    be changed."""

    def __post_init__(self) -> None:
        for name in ("d_sae", "k", "tokens", "batch_size", "buffer", "dead_after", "log_every", "eval_tokens"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "context", self.context >= 2, "at least 2")
        _require(self, "checkpoint_every", self.checkpoint_every >= 0, "0 (no checkpoints) or more")
        _require(self, "lr", self.lr > 0, "above 0")
        for name in ("l1_coefficient", "l0_coefficient", "aux_coefficient", "pre_act_coefficient", "threshold"):
            _require(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("clip", "bandwidth"):
            _require(self, name, getattr(self, name) > 0, "above 0")
        _require(self, "warm_up", 0 <= self.warm_up <= 1, "a fraction from 0 to 1")
        _require(self, "decay", 0 <= self.decay <= 1 - self.warm_up, "a fraction from 0 to 1 - warm_up")
        _require(self, "buffer", self.buffer >= self.batch_size, f"at least batch_size ({self.batch_size})")
        _require(self, "tokens", self.tokens >= self.batch_size, f"at least batch_size ({self.batch_size})")
        if self.architecture.startswith(USE_K):
            _require(self, "k", self.k <= self.d_sae, f"at most d_sae ({self.d_sae})")
        if self.overwrite and self.resume:
            raise SettingError("overwrite begins the run anew and resume goes on with it; choose one")
        if self.parallel == "latents" and self.architecture not in DIVIDE_LATENTS:
            known = ", ".join(DIVIDE_LATENTS)
            raise SettingError(f"the latents of {self.architecture} cannot be divided, only those of {known}")
        if self.architecture == "matryoshka":
            rising = all(a < b for a, b in pairwise((0, *self.inner_widths, self.d_sae)))
            _require(self, "nested_widths", rising, f"rising widths below d_sae ({self.d_sae})")
        if self.site_out is not None and not self.architecture.endswith("transcoder"):
            raise SettingError(f"site_out is for transcoders; {self.architecture} writes where it reads")
        if self.corpus is None and self.model != "tinytown":
            raise SettingError(f"corpus is needed: a text file or dataset for {self.model} to read")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_size

    @property
    def order(self) -> int:
        """The seed of the corpus and of the shuffling."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """`nested_widths`, or their default."""
        return tuple(self.nested_widths) or tuple(width for i in (16, 8, 4, 2) if (width := self.d_sae // i))

    @property
    def corpus_name(self) -> str:
        return self.corpus or "tinytown"

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a plain value, such that a YAML file of them trains the same SAE again."""
        plain = {
            "out": str(self.out),
            "nested_widths": list(self.nested_widths),
            "log_to": list(self.log_to),
        }
        return asdict(self) | plain | {"corpus": self.corpus_name, "overwrite": False, "resume": False}


@dataclass(frozen=True)
class SweepConfig:
    """Train several SAEs on one pass over the model, each in a directory of its own, and compare them.

    The file holds options of `sae train`; one with a list of values is tried with each of them, in every combination.
    A site with a `*` means a run at each layer, but for crosscoders, which read them together. Under `runs:` stand
    groups of options that belong together:

        out: runs/sweep
        site: blocks.2.hook_resid_post
        tokens: 2000000
        d_sae: [1024, 4096]
        runs:
          - {architecture: topk, k: [8, 16, 32]}
          - {architecture: standard, l1_coefficient: [1.0, 2.0]}
    """

    file: Positional[Path]
    """YAML file that says what to train."""
    out: Path | None = None
    """Directory that will hold the runs, their comparison and its figure; default: as the file says."""
    device: str | None = None
    """cpu, cuda, mps…; default: as the file says, or the best one there is."""
    overwrite: bool = False
    """Replace the runs in `out`."""
    resume: bool = False
    """Go on where the sweep was stopped, to the very results that it would have come to."""


@dataclass(frozen=True)
class CompareConfig:
    """Put trained SAEs side by side, by what their reports say: L0, FVU, loss recovered, dead latents, tokens/s."""

    runs: Positional[tuple[Path, ...]]
    """Directories of runs, or of sweeps."""


@dataclass(frozen=True)
class EvalConfig:
    """Judge a sparse autoencoder on held-out text.

    Reconstruction, sparsity, the model's loss with it spliced in, and the structure of its decoder; where the corpus
    has concept labels (tinytown), how well it finds the concepts and what its error still carries.
    """

    sae: Positional[Path]
    """Directory of the SAE, in SAELens format."""
    model: str | None = None
    """The model to splice it into; default: the one it was trained on."""
    corpus: str | None = None
    """The text to measure on; default: the one it was trained on."""
    tokens: int = 100_000
    """How many held-out tokens to read."""
    context: int | None = None
    """Tokens per sequence; default: as in training."""
    twins: tuple[Path, ...] = ()
    """Directories of other SAEs of the same site, such as of other seeds: how many latents do they share?"""
    labels: Path | None = None
    """A .jsonl file of {"text": …, "label": …} lines: can the label be read from a few latents?"""
    seed: int = 0
    """Draws what is held out of the labelled texts, and starts the training of the meta-dictionary."""
    device: str | None = None
    """cpu, cuda, mps…; default: the best one there is."""

    def __post_init__(self) -> None:
        _require(self, "tokens", self.tokens >= 1, "at least 1")
        _require(self, "context", self.context is None or self.context >= 2, "at least 2")


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a sparse autoencoder on what the model makes of its reconstructions.

    The SAE is spliced into the frozen model, and learns to leave the model's predictions as they were. A short run at
    the end of training closes much of the gap in loss (Karvonen 2025, arXiv:2503.17272; after Braun et al. 2024,
    arXiv:2405.12241). How many latents fire is held where it was.
    """

    sae: Positional[Path]
    """Directory of the SAE to begin with, in SAELens format; it is left as it is."""
    out: Path
    """Directory that will hold the fine-tuned SAE, config.yaml, metrics.jsonl, report.json and checkpoints."""
    loss: Literal["kl", "ce"] = "kl"
    """kl: the divergence of the model's predictions from those it makes without the SAE; ce: the cross-entropy of the
    next token."""
    reconstruction_weight: float = 1.0
    """How much the reconstruction error counts beside that loss, which is scaled to be as large; 0: not at all."""
    tokens: int = 500_000
    """How many tokens to read; a corpus that is shorter is read again."""
    batch_size: int = 4096
    """Tokens per step. Memory grows with it times the model's vocabulary."""
    lr: float = 5e-4
    """Learning rate of Adam at the first step, from where it falls linearly to zero. (Karvonen: 5e-5, over 25 million
    tokens.)"""
    model: str | None = None
    """The model to splice it into; default: the one it was trained on."""
    corpus: str | None = None
    """The text to train on; default: the one it was trained on."""
    context: int | None = None
    """Tokens per sequence; default: as in training."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 100
    """Steps between two checkpoints, the last two of which are kept until the run is complete; 0: one when it stops."""
    eval_tokens: int = 50_000
    """Held-out tokens that the SAE is measured on, as it was and as it is then."""
    log_to: Sequence[Literal["tensorboard", "wandb"]] = ()
    """Where metrics go beside metrics.jsonl, if installed: tensorboard, into its files in `out`, and wandb."""
    seed: int = 1
    """Seeds the order of the corpus; 0, which training has by default, would read the same contexts first."""
    device: str | None = None
    """cpu, cuda, mps…; default: the best one there is."""
    overwrite: bool = False
    """Replace the run in `out`."""
    resume: bool = False
    """Go on with the run in `out` where it was stopped; begin it if nothing was saved yet. Only out, device,
    log_to, checkpoint_every and eval_tokens may be changed."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_size", "log_every", "eval_tokens"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("checkpoint_every", "reconstruction_weight", "seed"):
            _require(self, name, getattr(self, name) >= 0, "0 or more")
        _require(self, "tokens", self.tokens >= self.batch_size, f"at least batch_size ({self.batch_size})")
        _require(self, "context", self.context is None or self.context >= 2, "at least 2")
        _require(self, "lr", self.lr > 0, "above 0")
        if self.overwrite and self.resume:
            raise SettingError("overwrite begins the run anew and resume goes on with it; choose one")
        if self.out.resolve() == self.sae.resolve():
            raise SettingError(f"out is the directory of the SAE itself, {self.sae}; choose another")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a plain value, such that a YAML file of them trains the same SAE again."""
        plain = {"sae": str(self.sae), "out": str(self.out), "log_to": list(self.log_to)}
        return asdict(self) | plain | {"overwrite": False, "resume": False}


def _require(config: object, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise SettingError(f"{name} must be {wanted}, not {getattr(config, name)}")
