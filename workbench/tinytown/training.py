"""Training the bundled model, a small Llama, and others on texts of Tinytown, saved as a plain Hugging Face directory.

Copying comes first. Half a million tokens of repeated passages of random words give the model a previous-token head
and the induction heads it feeds; mixed with other texts from the start, these form many times later. Then all texts
are mixed. While they are being learned no document sees the others that share its context, as copying from those
only misleads; the last part lifts that, so that the model knows packed contexts as readers of a corpus find them.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from workbench.corpus import TokenBatch, open_corpus
from workbench.errors import SettingError, TrainingError
from workbench.loading import no_progress_bar
from workbench.tinytown.initial import new_model
from workbench.tinytown.language import Language
from workbench.tinytown.options import TrainOptions
from workbench.tinytown.tokenizer import build_tokenizer

WARM_UP = 100
APART = 0.6
"""The share of the training in which attention stays within a document."""


FILES = {
    *("README.md", "config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
}
"""What a saved model consists of."""


class Step(NamedTuple):
    """What a training step reports."""

    step: int
    steps: int
    tokens: int
    loss: float
    """Nats a token; NaN before the first step."""
    seconds: float


def train_model(options: TrainOptions, on_step: Callable[[Step, PreTrainedModel], None]) -> PreTrainedModel:
    """Train from random weights. Equal options give equal weights on equal machines. `TrainingError` on NaN.

    `on_step` is called before the first step, as step 0, and after every step.
    """
    torch.manual_seed(options.seed)
    model = new_model(options)
    optimizer = _optimizer(model, options)
    steps = options.steps(options.tokens)
    device = next(model.parameters()).device
    started = time.perf_counter()
    on_step(Step(0, steps, 0, math.nan, 0.0), model)
    for step, batch in enumerate(islice(_batches(options), steps)):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(step, steps)
        loss = _loss(model, batch, device, apart=step < APART * steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not loss.isfinite():
            raise TrainingError(f"the loss is {loss.item()} at step {step}; try a lower --learning-rate")
        tokens = (step + 1) * options.batch_size * options.context
        on_step(Step(step + 1, steps, tokens, loss.item(), time.perf_counter() - started), model)
    return model.eval()


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate: linear warm-up, constant, linear fall to 0 over the second half."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (0.5 * steps))


def check_out(out: Path) -> None:
    """Raises `SettingError` if a model would take the place of anything but a model, `OSError` if none can be saved."""
    if not out.name or out.name == "..":
        raise SettingError(f"--out names the directory for the model, which {str(out)!r} does not")
    if out.exists() and not out.is_dir():
        raise SettingError(f"--out must be a directory, and {out} is a file")
    if foreign := sorted(path.name for path in out.glob("*") if path.name not in FILES):
        raise SettingError(f"{out} holds {foreign[0]}, which is none of a model's files; choose another --out")
    part = _part(out)
    part.mkdir(parents=True, exist_ok=True)
    part.rmdir()


def _part(out: Path) -> Path:
    """Where a model is written before it is whole; what a killed process left there is removed."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    return part


def save_model(model: PreTrainedModel, context: int, out: Path) -> None:
    """Write config, safetensors and tokenizer to a directory, whole or not at all; an older model is replaced.

    Raises as `check_out` does.
    """
    check_out(out)
    part = _part(out)
    try:
        with no_progress_bar():
            model.save_pretrained(part)
        build_tokenizer(Language(), context).save_pretrained(part)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def keep_checkpoints(options: TrainOptions) -> Callable[[Step, PreTrainedModel], None]:
    """An `on_step` that saves the model each time that it has read as many tokens as `options.checkpoints` says.

    In directories tokens-N beside `options.out`, in place of what an earlier training left there.
    """
    wanted = sorted(options.checkpoints)
    home = Path(options.out).with_name(f"{Path(options.out).name}-checkpoints")
    for old in home.glob("tokens-*") if wanted else ():
        check_out(old)
        shutil.rmtree(old)

    def keep(step: Step, model: PreTrainedModel) -> None:
        if wanted and step.tokens >= wanted[0]:
            wanted[:] = [count for count in wanted if count > step.tokens]
            save_model(model, options.context, home / f"tokens-{step.tokens}")

    return keep


def _batches(options: TrainOptions) -> Iterator[TokenBatch]:
    def batches(source: str) -> Iterator[TokenBatch]:
        return open_corpus(source, context=options.context, seed=options.seed).batches(options.batch_size)

    return chain(islice(batches("tinytown:passages"), options.steps(options.passages)), batches("tinytown"))


def _loss(model: PreTrainedModel, batch: TokenBatch, device: torch.device, *, apart: bool) -> Tensor:
    """Mean loss of predicting each token from those before it; the first token of a document cannot be predicted."""
    documents = batch.documents
    inside = documents[:, 1:] == documents[:, :-1]
    view = _apart(documents.to(device), model) if apart else {}
    logits = model(batch.tokens.to(device), **view).logits[:, :-1]
    target = batch.tokens[:, 1:].masked_fill(~inside | (documents[:, 1:] < 0), -100)
    return cross_entropy(logits.flatten(0, 1), target.flatten().to(device))


def _apart(documents: Tensor, model: PreTrainedModel) -> dict[str, Any]:
    """What makes a model read each document of a context (numbers `[batch, pos]`) as if it stood alone.

    A Gemma 2 takes a mask for each kind of its layers, as numbers to add to the scores.
    """
    here = torch.arange(documents.shape[1], device=documents.device)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    seen = (documents[:, :, None] == documents[:, None, :]).tril()[:, None]
    positions = here - torch.where(begins, here, 0).cummax(dim=1).values
    window = getattr(model.config, "sliding_window", None)
    if window is None:
        return {"attention_mask": seen, "position_ids": positions}
    near = here[:, None] - here < window
    masks = {"full_attention": seen, "sliding_attention": seen & near}
    added = {kind: torch.where(mask, 0.0, -torch.inf) for kind, mask in masks.items()}
    return {"attention_mask": added, "position_ids": positions}


def _optimizer(model: PreTrainedModel, options: TrainOptions) -> torch.optim.AdamW:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)
