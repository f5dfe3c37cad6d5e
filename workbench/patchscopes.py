"""Patchscopes: what an activation means, told by the model itself when it is put into another prompt.

Ghandeharioun et al. 2024, "Patchscopes: A Unifying Framework for Inspecting Hidden Representations of Language Models"
(arXiv:2401.06102, §3): the residual stream of a source prompt after layer ℓ at position i is mapped by f and takes the
place of that of a target prompt after layer ℓ* at position i*. What the target prompt then predicts, or goes on to say,
is read. With the last layer as ℓ* and the last position as i*, this is the logit lens; with a tuned lens' translators
as f, the tuned lens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.edits import replace
from workbench.errors import PromptError, SettingError
from workbench.lens import LensResult, Row, read_rows
from workbench.model import HookedModel
from workbench.tuned_lens import rows_of

Map = Callable[[Float[Tensor, "pos d_model"], str], Float[Tensor, "pos d_model"]]
"""(activations, the site they come from) -> what is inserted; `TunedLens.translate` is one."""


@dataclass(frozen=True)
class Patchscopes:
    """What the target prompt says of the source prompt's activations: after each layer, at each position."""

    readings: LensResult
    """The target's next-token distributions. Rows are layers of the source and columns its positions; ranks and KL are
    against the source's own final prediction there."""
    continuations: list[list[str]] | None
    """By row and position, what the target prompt went on to say; None if that was not asked for."""
    target_strings: list[str]
    target_position: int
    target_layer: int | None
    """The layer after which activations are inserted; None: the one after which they were taken."""

    def __str__(self) -> str:
        """What is said of the last position: a line for each layer."""
        if self.continuations is None:
            return str(self.readings)
        lines = [f"{self.readings.lens} of {self.readings.strings[-1]!r} (position {len(self.readings.strings) - 1})"]
        lines += [
            f"  {label:>5}  {row[-1]!r}" for label, row in zip(self.readings.labels, self.continuations, strict=True)
        ]
        return "\n".join(lines)


def patchscopes(
    model: HookedModel,
    source: str | Int[Tensor, " pos"],
    target: str | Int[Tensor, " target_pos"],
    *,
    position: int = -1,
    layer: int | None = None,
    mapping: Map | None = None,
    max_new_tokens: int = 0,
    k: int = 5,
    batch_size: int = 64,
) -> Patchscopes:
    """Insert the activation after every layer and at every position of `source` into `target`, one at a time.

    It goes to `position` of the target (from the end, if negative), and stays through `max_new_tokens` greedy tokens;
    it is inserted after `layer`, or by default after the layer that it comes from. The embedding counts as before
    layer 0. The target prompt is run on `batch_size` activations at a time.

    Raises `PromptError` for prompts that the model cannot take or that have no such position, and `SettingError` for a
    layer that it does not have.
    """
    source, target = (_tokens(model, prompt) for prompt in (source, target))
    n_layers = model.info.n_layers
    if layer is not None and not 0 <= layer < n_layers:
        raise SettingError(f"layer is {layer}; the layers of {model.info.name} are 0 to {n_layers - 1}")
    if not -len(target) <= position < len(target):
        raise PromptError(f"position {position} is outside the target prompt of {len(target)} tokens")
    if len(target) + max_new_tokens > model.info.n_ctx:
        raise PromptError(f"the target prompt and what follows would pass the {model.info.n_ctx} tokens of the context")
    position %= len(target)
    sites = rows_of(n_layers)
    run = model.run(source[None], capture=sites)
    final = run.logits[0].float().log_softmax(-1)
    said: list[list[str]] = []

    def rows() -> Iterator[Row]:
        for number, site in enumerate(sites):
            inserted = run[site][0] if mapping is None else mapping(run[site][0], site)
            where = site if layer is None else sites[layer + 1]
            parts = [_told(model, target, where, position, part, max_new_tokens) for part in inserted.split(batch_size)]
            said.append(
                [model.to_string(row) if model.tokenizer else str(row.tolist()) for _, new in parts for row in new]
            )
            yield "embed" if number == 0 else str(number - 1), site, torch.cat([logits for logits, _ in parts])

    readings = read_rows(model, source, rows(), final, k, lens="Patchscopes")
    return Patchscopes(readings, said if max_new_tokens else None, model.token_strings(target), position, layer)


def _tokens(model: HookedModel, prompt: str | Int[Tensor, " pos"]) -> Int[Tensor, " pos"]:
    return model.to_tokens(prompt)[0] if isinstance(prompt, str) else prompt.to(model.device)


def _told(
    model: HookedModel,
    target: Int[Tensor, " pos"],
    site: str,
    position: int,
    activations: Float[Tensor, "row d_model"],
    n_new: int,
) -> tuple[Float[Tensor, "row d_vocab"], Int[Tensor, "row new"]]:
    """With each activation inserted in turn: the target's next-token logits, and `n_new` greedy tokens."""
    edits = [replace(site, activations[:, None], positions=position)]
    tokens, read = target.expand(len(activations), -1), []
    while tokens.shape[1] < len(target) + max(1, n_new):
        read.append(model.run(tokens, edits=edits).logits[:, -1])
        tokens = torch.cat([tokens, read[-1].argmax(-1, keepdim=True)], dim=1)
    return read[0], tokens[:, len(target) : len(target) + n_new]
