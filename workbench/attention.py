"""Attention patterns of every head on one prompt."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from workbench.model import HookedModel

PATTERN = "blocks.*.attn.hook_pattern"


@dataclass(frozen=True)
class AttentionPatterns:
    """Where each head looks. Every row `patterns[layer, head, query]` is a distribution over keys: it sums to 1."""

    tokens: Int[Tensor, " pos"]
    strings: list[str]
    patterns: Float[Tensor, "layer head query key"]

    def __str__(self) -> str:
        """For the last token, the key each head looks at most."""
        weights, keys = self.patterns[:, :, -1].max(dim=-1)
        lines = [f"Where {self.strings[-1]!r} (position {len(self.strings) - 1}) looks most"]
        for layer, (row, where) in enumerate(zip(weights.tolist(), keys.tolist(), strict=True)):
            heads = (
                f"H{head} {self.strings[k]!r}@{k} {w:.2f}" for head, (w, k) in enumerate(zip(row, where, strict=True))
            )
            lines.append(f"  L{layer}  " + "   ".join(heads))
        return "\n".join(lines)


def attention_patterns(model: HookedModel, prompt: str | Int[Tensor, " pos"]) -> AttentionPatterns:
    """Run `prompt` once and keep the attention pattern (after the softmax) of all heads.

    Raises `PromptError` for an empty prompt or one longer than the context.
    """
    tokens = model.to_tokens(prompt)[0] if isinstance(prompt, str) else prompt
    run = model.run(tokens[None], capture=[PATTERN])
    return AttentionPatterns(tokens.cpu(), model.token_strings(tokens), run.stack(PATTERN)[:, 0].float().cpu())
