"""What attention moves: patterns weighted by the values that they carry, and rollout over the layers."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention import PATTERN, AttentionPatterns
from workbench.model import HookedModel, Run
from workbench.weights import head_weights

VALUES = "blocks.*.attn.hook_v"


@dataclass(frozen=True)
class ValueWeights:
    """How much each head moves from each key to each query: ‖α f(x)‖, f(x) = (x W_V + b_V) W_O.

    Kobayashi et al. 2020, "Attention is Not Only a Weight" (arXiv:2004.10102), eq. 5. Keys that are looked at but whose
    values are short, such as a first token that heads rest on, weigh little. Norms are those before any norm that
    follows attention (Gemma 2).
    """

    tokens: Int[Tensor, " pos"]
    strings: list[str]
    norms: Float[Tensor, "layer head query key"]

    @property
    def patterns(self) -> AttentionPatterns:
        """Each row as shares of its sum, in the form of attention patterns."""
        totals = self.norms.sum(-1, keepdim=True)
        return AttentionPatterns(self.tokens, self.strings, self.norms / totals.clamp_min(1e-12))

    def __str__(self) -> str:
        return f"Weighted by the values: {self.patterns}"


def value_weights(model: HookedModel, prompt: str | Int[Tensor, " pos"]) -> ValueWeights:
    """Run `prompt` once and weigh every head's pattern by what it carries.

    Raises `PromptError` for an empty prompt or one longer than the context, `ModelError` for attention without W_O.
    """
    tokens = model.to_tokens(prompt)[0] if isinstance(prompt, str) else prompt
    run = model.run(tokens[None], capture=[PATTERN, VALUES])
    norms = [
        run[PATTERN.replace("*", str(layer))][0] * carried(model, run, layer).norm(dim=-1).T[:, None]
        for layer in range(model.info.n_layers)
    ]
    return ValueWeights(tokens.cpu(), model.token_strings(tokens), torch.stack(norms).float().cpu())


def carried(model: HookedModel, run: Run, layer: int) -> Float[Tensor, "key head d_model"]:
    """f(x) of every key and query head, of a run of one prompt that captured the layer's `hook_v`."""
    weights = head_weights(model, layer)
    values = run[VALUES.replace("*", str(layer))][0].unflatten(-1, (-1, weights.W_O.shape[1])).flatten(1, -2)
    shared = values.repeat_interleave(len(weights.W_O) // values.shape[1], dim=1)
    return torch.einsum("khe,hed->khd", shared, weights.W_O)


@dataclass(frozen=True)
class Rollout:
    """How far each position of a layer's output comes from each token of the prompt. Rows sum to 1."""

    tokens: Int[Tensor, " pos"]
    strings: list[str]
    flow: Float[Tensor, "layer query token"]

    def __str__(self) -> str:
        """For the last position, the tokens that it comes from most, after each layer."""
        lines = [f"Where {self.strings[-1]!r} (position {len(self.strings) - 1}) comes from"]
        for layer, row in enumerate(self.flow[:, -1]):
            best = row.topk(min(5, len(row)))
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            lines.append(
                f"  after layer {layer}  " + "   ".join(f"{self.strings[i]!r}@{i} {share:.2f}" for share, i in pairs)
            )
        return "\n".join(lines)


def rollout(result: AttentionPatterns) -> Rollout:
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928, section 3): A_l … A_1.

    A_l is half the mean of the layer's heads and half the identity, which stands for the residual stream. Taken of
    `ValueWeights.patterns` it follows what is carried in place of where is looked.
    """
    patterns = result.patterns.mean(1)
    steps = (patterns / patterns.sum(-1, keepdim=True) + torch.eye(patterns.shape[-1])) / 2
    flow = [steps[0]]
    for step in steps[1:]:
        flow.append(step @ flow[-1])
    return Rollout(result.tokens, result.strings, torch.stack(flow))
