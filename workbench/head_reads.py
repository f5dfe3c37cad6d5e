"""What the heads of a layer make of any residual stream: queries, keys, scores and outputs, without a prompt.

A *stream* here is what the residual stream would hold at a position. `token_streams` gives the stream of every token of
the vocabulary standing alone, without attention and without a position.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.edits import ablate
from workbench.errors import ModelError
from workbench.hooking import attach, hooked
from workbench.model import HookedModel
from workbench.weights import block, head_weights, norm_of

BATCH = 4_096
"""Tokens that are run at a time, each a sequence of its own."""
PROBE = 8
"""Positions of the random prompts on which scores are compared with the model's own."""
MASKED = -1e4
"""Scores below this belong to keys that may not be looked at."""
_ROTARY = ("cos", "sin")
Positions = int | Int[Tensor, " row"]


def token_streams(model: HookedModel, layer: int) -> Float[Tensor, "d_vocab d_model"]:
    """The stream that each token brings to `layer` by itself.

    For layer 0 its embedding. For later layers, what block 0 leaves when its attention writes nothing: the embedding
    and block 0's MLP, the "effective embedding" (McDougall et al. 2023, arXiv:2310.04625, section 3). Learned position
    embeddings are left out.
    """
    edits = [ablate("blocks.0.hook_attn_out")]
    if "hook_pos_embed" in model.sites:
        edits.append(ablate("hook_pos_embed"))
    site = "blocks.0.hook_resid_pre" if layer == 0 else "blocks.0.hook_resid_post"
    tokens = torch.arange(model.info.d_vocab)[:, None]
    runs = (model.run(part, capture=[site], edits=edits, stop_after=site) for part in tokens.split(BATCH))
    return torch.cat([run[site][:, 0] for run in runs])


class HeadReads:
    """The heads of one layer, as functions of streams; one of keys and values for each query head.

    Scores are those before the softmax and before a soft cap, less what depends on positions alone (ALiBi). Under
    rotary positions they depend on how far the query is behind the key. On construction they are compared with the
    model's own on random prompts; raises `ModelError` if they are not the same, so that the heads have no QK circuit.
    """

    def __init__(self, model: HookedModel, layer: int, furthest: int = 1):
        self._norm = norm_of(model, layer, "ln1")
        self._post = norm_of(model, layer, "ln1_post").gain
        self.weights = head_weights(model, layer).per_query_head()
        attention = block(model, layer).attn
        self._query_norm, self._key_norm = (getattr(attention, f"{name}_norm", None) for name in "qk")
        self._layer, self._rotary, self.scale = layer, {}, 1.0
        self._compare(model, furthest)

    def queries(self, streams: Float[Tensor, "row d_model"], position: Positions) -> Float[Tensor, "row head d_head"]:
        """Queries at a position (of each row, or of all), such that scores are their products with the keys."""
        x = self._project(streams, self.weights.W_Q, self.weights.b_Q, self._query_norm)
        return self.scale * self._rotate(x, position)

    def keys(self, streams: Float[Tensor, "row d_model"], position: Positions = 0) -> Float[Tensor, "row head d_head"]:
        x = self._project(streams, self.weights.W_K, self.weights.b_K, self._key_norm)
        return self._rotate(x, position)

    def values(self, streams: Float[Tensor, "row d_model"]) -> Float[Tensor, "row head d_value"]:
        return self._project(streams, self.weights.W_V, self.weights.b_V, None)

    @property
    def W_O(self) -> Float[Tensor, "head d_value d_model"]:
        """What values write to the residual stream; a norm after attention (Gemma 2) lends its gain, not its scale."""
        return self.weights.W_O * self._post

    def _project(self, streams: Tensor, W: Tensor, b: Tensor, norm: torch.nn.Module | None) -> Tensor:
        x = torch.einsum("nd,hde->nhe", self._norm(streams), W) + b
        return x if norm is None else norm(x)

    def _rotate(self, x: Float[Tensor, "row head d_head"], position: Positions) -> Float[Tensor, "row head d_head"]:
        if "cos" not in self._rotary:
            return x
        cos, sin = (
            self._rotary[name][..., position, :].reshape(-1, 1, self._rotary[name].shape[-1]) for name in _ROTARY
        )
        rotated, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = rotated.chunk(2, dim=-1)
        return torch.cat([rotated * cos + torch.cat([-second, first], -1) * sin, rest], -1)

    @torch.no_grad()
    def _compare(self, model: HookedModel, furthest: int) -> None:
        """Learn cosines, sines and the factor of the scores from random prompts, and check the scores."""
        length = max(PROBE, furthest + 1)
        if not 0 <= furthest < model.info.n_ctx:
            raise ModelError(f"an offset lies between 0 and {model.info.n_ctx - 1} in this model, not at {furthest}")
        tokens = torch.randint(model.info.d_vocab, (4, length), generator=torch.Generator().manual_seed(0))
        stream, scores = f"blocks.{self._layer}.hook_resid_pre", f"blocks.{self._layer}.attn.hook_attn_scores"
        known = {name: model.bridge.hook_dict.get(f"blocks.{self._layer}.attn.hook_{name}") for name in _ROTARY}
        points = {name: partial(attach, point) for name, point in known.items() if point is not None}
        with hooked(points, {name: partial(self._rotary.__setitem__, name) for name in points}):
            run = model.run(tokens, capture=[stream, scores], stop_after=scores)
        streams, at = run[stream][:, :PROBE].flatten(0, 1), torch.arange(PROBE).repeat(len(tokens))
        q, k = (reads(streams, at).unflatten(0, (len(tokens), PROBE)) for reads in (self.queries, self.keys))
        ours, theirs = torch.einsum("bqhe,bkhe->bhqk", q, k), run[scores][..., :PROBE, :PROBE]
        seen = torch.ones_like(theirs[0, 0], dtype=torch.bool).tril() & (theirs.amin((0, 1)) > MASKED)
        ours, theirs = ours[..., seen].float(), theirs[..., seen].float()
        if (cap := model.bridge.cfg.attn_scores_soft_cap) and cap > 0:
            theirs = cap * torch.atanh(theirs / cap)
        ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)  # without what positions alone contribute
        self.scale = float((ours * theirs).sum() / ours.square().sum())
        if not (theirs - self.scale * ours).norm() <= 1e-2 * theirs.norm():
            raise ModelError(f"the scores of {model.info.architecture} are not products of its queries and keys alone")
