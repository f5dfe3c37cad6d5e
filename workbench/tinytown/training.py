"""Training the bundled model: a small Llama on texts of Tinytown, saved as a plain Hugging Face directory.

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
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.corpus import TokenBatch, open_corpus
from workbench.errors import SettingError, TrainingError
from workbench.loading import no_progress_bar
from workbench.tinytown.language import BOS, Language
from workbench.tinytown.options import TrainOptions
from workbench.tinytown.tokenizer import build_tokenizer

WARM_UP = 100
INITIAL_STD = 0.08
ROPE_THETA = 500.0
"""Base of the rotary frequencies: half of them turn within a context of a hundred tokens."""
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


def train_model(options: TrainOptions, on_step: Callable[[Step, LlamaForCausalLM], None]) -> LlamaForCausalLM:
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
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
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
    """Weights from which induction is learned within half a million tokens, not tens of millions.

    They start about as large as training makes them. MLPs start by writing nothing. Attention starts by copying what it
    attends to: the output projection is a part of the value projection, transposed; a smaller part in the first layer,
    so that a token stays louder than its neighbours; and from the third layer on half of the heads suppress it instead.
    The second layer leans towards tokens like the one it looks from (keys resemble queries), and biases lean two heads
    of the first layer towards the token before and the one before that. What to copy, where from and what for is left
    to learn.
    """
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        attention.o_proj.weight.copy_((0.15 if number == 0 else 0.5) * attention.v_proj.weight.T)
        if number == 1:
            attention.k_proj.weight.copy_(0.5 * attention.q_proj.weight + 0.75**0.5 * attention.k_proj.weight)
        if number > 1:
            attention.o_proj.weight[:, attention.o_proj.in_features // 2 :] *= -1
        for bias in (attention.q_proj.bias, attention.k_proj.bias):
            torch.nn.init.normal_(bias, std=0.1)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    for head, distance in enumerate((1, 2)):
        _lean_back(model.model.layers[0].self_attn, head, distance)


def _lean_back(attention: torch.nn.Module, head: int, distance: int, frequencies: int = 6, logit: float = 20.0) -> None:
    """Set the query and key biases of a head so that the token `distance` back gets about this attention logit.

    Rotary positions turn query and key apart by an angle per frequency that grows with their distance. The key bias is
    the query bias turned the other way by so many steps, so that the two agree at that distance; only the fastest
    frequencies take part, so that they agree nowhere else.
    """
    size = attention.head_dim
    frequencies = min(frequencies, size // 2)
    angles = ROPE_THETA ** (-2 / size * torch.arange(frequencies))
    query = torch.polar(torch.tensor((logit * size**0.5 / frequencies) ** 0.5), 2 * torch.pi * torch.rand(frequencies))
    key = query * torch.exp(1j * distance * angles)
    for bias, turned in ((attention.q_proj.bias, query), (attention.k_proj.bias, key)):
        ours = bias[head * size : (head + 1) * size]
        ours.zero_()
        ours[:frequencies], ours[size // 2 :][:frequencies] = turned.real, turned.imag


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


def save_model(model: LlamaForCausalLM, context: int, out: Path) -> None:
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


def keep_checkpoints(options: TrainOptions) -> Callable[[Step, LlamaForCausalLM], None]:
    """An `on_step` that saves the model each time that it has read as many tokens as `options.checkpoints` says.

    In directories tokens-N beside `options.out`, in place of what an earlier training left there.
    """
    wanted = sorted(options.checkpoints)
    home = Path(options.out).with_name(f"{Path(options.out).name}-checkpoints")
    for old in home.glob("tokens-*") if wanted else ():
        check_out(old)
        shutil.rmtree(old)

    def keep(step: Step, model: LlamaForCausalLM) -> None:
        if wanted and step.tokens >= wanted[0]:
            wanted[:] = [count for count in wanted if count > step.tokens]
            save_model(model, options.context, home / f"tokens-{step.tokens}")

    return keep


def _batches(options: TrainOptions) -> Iterator[TokenBatch]:
    def batches(source: str) -> Iterator[TokenBatch]:
        return open_corpus(source, context=options.context, seed=options.seed).batches(options.batch_size)

    return chain(islice(batches("tinytown:passages"), options.steps(options.passages)), batches("tinytown"))


def _loss(model: LlamaForCausalLM, batch: TokenBatch, device: torch.device, *, apart: bool) -> Tensor:
    """Mean loss of predicting each token from those before it; the first token of a document cannot be predicted."""
    documents = batch.documents
    inside = documents[:, 1:] == documents[:, :-1]
    view = {name: value.to(device) for name, value in _apart(documents).items()} if apart else {}
    logits = model(batch.tokens.to(device), **view).logits[:, :-1]
    target = batch.tokens[:, 1:].masked_fill(~inside | (documents[:, 1:] < 0), -100)
    return cross_entropy(logits.flatten(0, 1), target.flatten().to(device))


def _apart(documents: Tensor) -> dict[str, Tensor]:
    """What makes a model read each document of a context (numbers `[batch, pos]`) as if it stood alone."""
    here = torch.arange(documents.shape[1]).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    same = documents[:, :, None] == documents[:, None, :]
    return {
        "attention_mask": same.tril()[:, None],
        "position_ids": here - torch.where(begins, here, 0).cummax(dim=1).values,
    }


def _optimizer(model: LlamaForCausalLM, options: TrainOptions) -> torch.optim.AdamW:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)
