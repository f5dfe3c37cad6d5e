"""Training the bundled model: a small Llama on texts of Tinytown, saved as a plain Hugging Face directory."""

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.corpus import TokenBatch, open_corpus
from workbench.errors import TrainingError
from workbench.tinytown.language import BOS, Language
from workbench.tinytown.options import TrainOptions
from workbench.tinytown.tokenizer import build_tokenizer

WARM_UP = 100
INITIAL_STD = 0.08


class Step(NamedTuple):
    """What a training step reports."""

    step: int
    steps: int
    tokens: int
    loss: float
    """Nats a token."""
    seconds: float


def train_model(options: TrainOptions, on_step: Callable[[Step, LlamaForCausalLM], None]) -> LlamaForCausalLM:
    """Train from random weights. Equal options give equal weights on equal machines. `TrainingError` on NaN."""
    torch.manual_seed(options.seed)
    model = new_model(options)
    optimizer = _optimizer(model, options)
    steps = options.steps(options.tokens)
    device = next(model.parameters()).device
    started = time.perf_counter()
    for step, batch in enumerate(islice(_batches(options), steps)):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(step, steps)
        loss = _loss(model, batch, device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not loss.isfinite():
            raise TrainingError(f"the loss is {loss.item()} at step {step}; try a lower --learning-rate")
        tokens = (step + 1) * options.batch_size * options.context
        on_step(Step(step + 1, steps, tokens, loss.item(), time.perf_counter() - started), model)
    return model.eval()


def new_model(options: TrainOptions) -> LlamaForCausalLM:
    """A Llama with random weights, on the GPU if there is one (see `initialise`)."""
    language = Language()
    config = LlamaConfig(
        vocab_size=len(language.words),
        hidden_size=options.d_model,
        intermediate_size=options.d_mlp,
        num_hidden_layers=options.n_layers,
        num_attention_heads=options.n_heads,
        num_key_value_heads=options.n_heads,
        max_position_embeddings=options.context,
        tie_word_embeddings=True,
        initializer_range=INITIAL_STD,
        bos_token_id=language.ids[BOS],
        eos_token_id=language.ids[BOS],
        pad_token_id=None,
        use_cache=True,
    )
    model = LlamaForCausalLM(config)
    initialise(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def initialise(model: LlamaForCausalLM) -> None:
    """Weights from which copying is learned within a million tokens, not tens of millions.

    They start about as large as training makes them. MLPs start by writing nothing. Attention starts by copying what it
    attends to (the output projection is half the value projection, transposed), and from the second layer on leans
    towards tokens like the one it looks from (keys resemble queries). What to copy, and where, is left to learn.
    """
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        attention.o_proj.weight.copy_(0.5 * attention.v_proj.weight.T)
        if number > 0:
            attention.k_proj.weight.copy_(0.5 * attention.q_proj.weight + 0.75**0.5 * attention.k_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate: linear warm-up, constant, linear fall to 0 over the second half."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (0.5 * steps))


def save_model(model: LlamaForCausalLM, context: int, out: Path) -> None:
    """Write config, safetensors and tokenizer to a directory, whole or not at all; an older one is replaced."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model.save_pretrained(part)
        build_tokenizer(Language(), context).save_pretrained(part)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _batches(options: TrainOptions) -> Iterator[TokenBatch]:
    return open_corpus("tinytown", context=options.context, seed=options.seed).batches(options.batch_size)


def _loss(model: LlamaForCausalLM, batch: TokenBatch, device: torch.device) -> Tensor:
    """Mean loss of predicting each token from those before it; the first token of a document cannot be predicted."""
    logits = model(batch.tokens.to(device)).logits[:, :-1]
    same_document = batch.documents[:, 1:] == batch.documents[:, :-1]
    target = batch.tokens[:, 1:].masked_fill(~same_document | (batch.documents[:, 1:] < 0), -100)
    return cross_entropy(logits.flatten(0, 1), target.flatten().to(device))


def _optimizer(model: LlamaForCausalLM, options: TrainOptions) -> torch.optim.AdamW:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)
