"""Training a tuned lens on a corpus, with checkpoints from which it goes on to the same bits.

    OUT/lens.json, lens.safetensors                the lens, once it is trained
    OUT/training.json, checkpoint.safetensors      while it is not: whose it is, and how far it has come

The model runs over each batch once, as deep as its last residual stream. All translators are stepped together; logits
exist for one layer and a stretch of positions at a time (`workbench.lens_kl.chunks`).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.activations import harvest
from workbench.corpus import START, Corpus, Position, open_corpus, open_held_out
from workbench.errors import DamagedFile, SettingError, TrainingError
from workbench.files import held, read_json, read_tensors, write_json, write_tensors
from workbench.interrupt import Interrupt
from workbench.lens_kl import LensKL, chunks, kl, lens_kl, log_probs, stream_rows
from workbench.lens_options import LensTrainOptions
from workbench.model import HookedModel, load_model
from workbench.moments import moments, restore_moments
from workbench.tuned_lens import FACTS_FILE, TunedLens, load_tuned_lens, rows_of

TRAINING_FILE, CHECKPOINT_FILE = "training.json", "checkpoint.safetensors"


@dataclass(frozen=True)
class LensStep:
    """What a step of training reports."""

    tokens: int
    kl: list[float]
    """Mean KL(final ‖ lens) of the batch, by translator, in nats a token, before the step."""


@dataclass(frozen=True)
class LensTraining:
    """What a training came to. `report` is None if it was interrupted."""

    out: Path
    tokens: int
    interrupted: bool
    report: LensKL | None

    def __str__(self) -> str:
        head = f"Trained on {self.tokens:,} tokens; saved in {self.out}"
        return head if self.report is None else f"{head}\n\n{self.report}"


class LensTrainer:
    """The translators in training, a batch at a time. Knows nothing of corpora or files."""

    def __init__(self, model: HookedModel, lr: float | None, n_tokens: int) -> None:
        self.model, self.lr, self.n_tokens = model, lr or 1 / model.info.d_model, n_tokens
        self.lens = TunedLens.identity(model)
        self.parameters = {"A": self.lens.A, "b": self.lens.b}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=self.lr)
        self.tokens = 0

    def step(self, rows: list[Float[Tensor, "row d_model"]]) -> LensStep:
        """One step of Adam on the residual stream of some tokens, at the embedding and after each layer.

        The loss is the sum over translators of their mean KL; its gradient stops at what each translator gives, and the
        rest of the way is short enough to be written out.
        """
        A, b = (torch.zeros_like(parameter) for parameter in self.parameters.values())
        losses = torch.zeros(len(A), device=A.device)
        for *layers, last in chunks(rows, self.model.info.d_vocab):
            with torch.no_grad():
                final = log_probs(self.model, last)
            for number, (site, resid) in enumerate(zip(self.lens.sites, layers, strict=True)):
                with torch.enable_grad():
                    read = self.lens.translate(resid, site).detach().requires_grad_()
                    loss = kl(final, log_probs(self.model, read)).sum() / len(rows[0])
                (gradient,) = torch.autograd.grad(loss, read)
                A[number] += gradient.float().T @ resid.float()
                b[number] += gradient.float().sum(0)
                losses[number] += loss.detach()
        self._descend(A, b)
        self.tokens += len(rows[0])
        return LensStep(self.tokens, losses.tolist())

    def _descend(self, *gradients: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * max(0.0, 1 - self.tokens / self.n_tokens)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, as tensors to save."""
        return self.parameters | moments(self.parameters, self.optimizer) | {"tokens": torch.tensor(self.tokens)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a trainer of the same model, on the CPU with as many threads to the same bits."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])
        restore_moments(self.parameters, self.optimizer, state)
        self.tokens = int(state["tokens"])


def train_lens(
    options: LensTrainOptions,
    model: HookedModel | None = None,
    corpus: Corpus | None = None,
    held_out: Corpus | None = None,
    on_step: Callable[[LensStep], None] | None = None,
    interrupt: Interrupt | None = None,
) -> LensTraining:
    """Train a tuned lens as `options` say, measure it on held-out text, and save it in `options.out`.

    Model and corpora are opened by the names in `options` unless they are given. `interrupt.request()` ends the
    training after the step under way, with a checkpoint; `options.resume` goes on from it.

    Raises `SettingError` if `out` is taken, or holds a training with other settings, of another model or corpus;
    `DamagedFile` if its checkpoint is broken; `TrainingError` if the loss is no longer finite.
    """
    out = Path(options.out)
    _check_free(out, options)
    model = model or load_model(options.model, device=options.device)
    if options.resume and (out / FACTS_FILE).is_file():
        return _complete(out, model)
    if corpus is None:
        corpus = open_corpus(options.corpus_name, model.tokenizer, context=options.context, seed=options.seed)
    if held_out is None:
        held_out = open_held_out(options.corpus_name, model.tokenizer, context=options.context)
    trainer = LensTrainer(model, options.lr, options.tokens)
    out.mkdir(parents=True, exist_ok=True)
    with held(out), interrupt or Interrupt() as asked:
        position = _begin(out, options, trainer, corpus)
        if _fit(out, options, trainer, corpus, position, on_step, asked):
            return LensTraining(out, trainer.tokens, True, None)
        report = lens_kl(model, held_out, trainer.lens, options.eval_tokens)
        facts = _origin(options, model, corpus) | {"trained_on": trainer.tokens, "held_out": asdict(report)}
        TunedLens(trainer.lens.A, trainer.lens.b, model.fingerprint, facts).save(out)
        for name in (TRAINING_FILE, CHECKPOINT_FILE):
            (out / name).unlink(missing_ok=True)
    return LensTraining(out, trainer.tokens, False, report)


def _check_free(out: Path, options: LensTrainOptions) -> None:
    if out.exists() and not out.is_dir():
        raise SettingError(f"out must be a directory, and {out} is a file")
    if options.resume or options.overwrite:
        return
    if (out / FACTS_FILE).exists():
        raise SettingError(f"{out} already holds a tuned lens; choose another out, or overwrite it")
    if (out / CHECKPOINT_FILE).exists():
        raise SettingError(f"{out} holds an unfinished training; resume goes on with it, overwrite begins it anew")


def _complete(out: Path, model: HookedModel) -> LensTraining:
    """The result of a training that was completed before, from its files."""
    facts = load_tuned_lens(out, model).facts
    try:
        return LensTraining(out, facts["trained_on"], False, LensKL(**facts["held_out"]))
    except (KeyError, TypeError):
        raise DamagedFile(f"{out / FACTS_FILE} does not say how the lens was trained") from None


def _begin(out: Path, options: LensTrainOptions, trainer: LensTrainer, corpus: Corpus) -> Position:
    """Where in the corpus to go on: bring the trainer to its checkpoint, or clear what there was of an earlier one."""
    origin = _origin(options, trainer.model, corpus)
    checkpoint, training = out / CHECKPOINT_FILE, out / TRAINING_FILE
    if not (options.resume and checkpoint.is_file()):
        for old in (checkpoint, out / FACTS_FILE):
            old.unlink(missing_ok=True)
        write_json(training, origin)
        return START
    begun = read_json(training)
    for name, value in origin.items():
        if not isinstance(begun, dict) or begun.get(name) != value:
            was = begun.get(name) if isinstance(begun, dict) else None
            raise SettingError(f"the training in {out} was begun with {name} {was}, not {value}; resumed, it keeps it")
    state = read_tensors(checkpoint)
    try:
        trainer.restore(state)
        return Position(*state["position"].tolist())
    except (KeyError, RuntimeError, TypeError) as error:
        raise DamagedFile(f"{checkpoint} does not fit this training ({str(error).splitlines()[0]})") from None


def _origin(options: LensTrainOptions, model: HookedModel, corpus: Corpus) -> dict[str, Any]:
    """What decides what the lens becomes, as plain values."""
    fingerprints = {"model_fingerprint": model.fingerprint, "corpus_fingerprint": corpus.fingerprint}
    return options.deciding() | fingerprints


def _fit(
    out: Path,
    options: LensTrainOptions,
    trainer: LensTrainer,
    corpus: Corpus,
    position: Position,
    on_step: Callable[[LensStep], None] | None,
    interrupt: Interrupt,
) -> bool:
    """Train to the last token; True if it was interrupted before."""
    model = trainer.model
    if trainer.tokens >= options.tokens:
        return False
    sites = rows_of(model.info.n_layers)
    batches = harvest(model, corpus, sites, batch_size=options.batch_size, position=position, repeat=True)
    for number, batch in enumerate(batches, start=1):
        step = trainer.step(stream_rows(batch, model.info.n_layers))
        if not all(map(math.isfinite, step.kl)):
            raise TrainingError(f"the loss is no longer finite after {step.tokens:,} tokens; try a lower lr")
        if on_step is not None:
            on_step(step)
        if step.tokens >= options.tokens:
            return False
        due = options.checkpoint_every and number % options.checkpoint_every == 0
        if due or interrupt.requested:
            state = trainer.state() | {"position": torch.tensor(batch.position)}
            write_tensors(out / CHECKPOINT_FILE, state)
        if interrupt.requested:
            return True
    return False
