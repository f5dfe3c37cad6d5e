"""A look inside the attention of transformer-lens's own small models (`TransformerBridge.boot_native`).

The bridge shows their attention pattern after the output has been computed from it, so that an edit there would change
nothing, and shows it a second time under the name of the scores. Here the attention is computed step by step, with the
scores and the pattern open to visitors; it is the model's own arithmetic in the same order.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge.sources.native.model import NativeAttention, apply_softcap

Visit = Callable[[Tensor], Tensor | None]


class OpenAttention:
    """Takes the place of a `NativeAttention`'s forward for as long as there is a visitor."""

    def __init__(self, attention: NativeAttention) -> None:
        self.attention = attention
        self.visits: dict[str, Visit] = {}

    def attach(self, name: str, visit: Visit) -> Callable[[], None]:
        """Show `visit` the activation called `name`, "scores" or "pattern"; returns what undoes this."""
        self.visits[name] = visit
        self.attention.forward = self._forward
        return partial(self._detach, name)

    def _detach(self, name: str) -> None:
        del self.visits[name]
        if not self.visits:
            del self.attention.forward

    def _show(self, name: str, value: Tensor) -> Tensor:
        changed = self.visits[name](value) if name in self.visits else None
        return value if changed is None else changed

    def _forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        own = self.attention
        batch, length, _ = hidden.shape
        q = own.q(hidden).view(batch, length, own.n_heads, own.d_head).transpose(1, 2)
        k = own.k(hidden).view(batch, length, own.n_kv_heads, own.d_head).transpose(1, 2)
        v = own.v(hidden).view(batch, length, own.n_kv_heads, own.d_head).transpose(1, 2)
        if own.rotary is not None:
            q, k = own.rotary.apply_rope(q, k, position_ids=position_ids)
        k, v = (x.repeat_interleave(own.kv_repeats, dim=1) for x in (k, v))
        scores = apply_softcap(q @ k.transpose(-2, -1) / own.scale, own.attn_scores_soft_cap)
        future = own.causal_mask[:length, :length] & own.causal
        if attention_mask is not None:
            future = own._combine_attention_mask(future, attention_mask, batch=batch)
        scores = self._show("scores", scores.masked_fill(future, float("-inf")))
        pattern = self._show("pattern", scores.softmax(dim=-1).masked_fill(future, 0.0))
        mixed = (pattern @ v).transpose(1, 2).reshape(batch, length, -1)
        return own.o(mixed), pattern
