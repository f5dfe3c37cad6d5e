"""Stages: the nodes of a graph that are computed side by side, as functions of what each of them reads.

Every stage knows three ways to compute itself. *Plain*: all its nodes read one residual stream, as in the model itself;
that is as fast as the model. *Split*: each destination reads an input of its own, as in a circuit run. *Pull*: the
gradient with respect to each destination's input, worked out from the gradient at the projections (`taps`) without ever
copying the stream for each head.

Between the two runs of a pair only the small `state` of a stage is kept: the mixed values of the heads, of width d_head
each, and the output of an MLP. `expand` turns it into what each node writes into the residual stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from workbench.norms import Norm

Stream = Float[Tensor, "n pos d_model"]
Taps = tuple[Tensor, ...]


@runtime_checkable
class Stage(Protocol):
    """Nodes computed side by side. `n` counts prompts."""

    coupled: bool
    """Whether what one node writes depends on all of them, through a norm after the stage (Gemma 2)."""

    def taps(self, stream: Stream) -> Taps:
        """The tensors whose gradients tell the destinations apart."""
        ...

    def emit(self, taps: Taps) -> Tensor:
        """The state, [n pos ...]; for the logits, the logits at the last position [n d_vocab]."""
        ...

    def added(self, state: Tensor) -> Stream:
        """What the whole stage adds to the residual stream."""
        ...

    def expand(self, state: Tensor, which: Int[Tensor, " u"] | None = None) -> Float[Tensor, "u n pos d_model"]:
        """What each node writes into the residual stream, constants of the stage left out."""
        ...

    def inputs(self, which: Int[Tensor, " u"]) -> Int[Tensor, " v"]:
        """The destinations, counted within the stage, that some of its nodes read, in the order that `split` takes."""
        ...

    def split(
        self, reads: Float[Tensor, "c v n pos d_model"], which: Int[Tensor, " u"]
    ) -> Float[Tensor, "c u n pos d_model"]:
        """What some of its nodes write, if each of the destinations `inputs(which)` reads its own input."""
        ...

    def pull(self, stream: Stream, gradients: Taps, positions: slice) -> Float[Tensor, "v n pos_ d_model"]:
        """Gradients, at some positions, with respect to what each destination reads, from those at the taps."""
        ...

    def retap(self, taps: Taps, destination: int, read: Float[Tensor, "kn pos d_model"]) -> Taps:
        """The taps if one destination, counted within the stage, reads `read`: the `n` prompts, k times over."""
        ...


@dataclass(frozen=True, eq=False)
class Heads:
    """The attention heads of a layer. Destinations: queries of each head, keys, then values of each key-value head."""

    norm: Norm | None
    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_out d_model"]
    """The weight of a norm after attention multiplied in. Such a norm scales an output bias as it does the heads, so
    each head writes an equal share of that, by one more row."""
    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "kv_head d_head"] | None
    b_V: Float[Tensor, "kv_head d_head"] | None
    b_O: Float[Tensor, " d_model"] | None
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Norms and rotates queries and keys, [n head pos d_head]."""
    bias: Float[Tensor, "#head query key"]
    """Added to the scores: minus infinity where a query may not look, and ALiBi's slopes. With one query, it is the
    last, and only what the heads write there is computed."""
    scale: float
    soft_cap: float | None
    after: Norm | None
    """An RMSNorm that the sum of the heads goes through before it is added (Gemma 2)."""

    @property
    def coupled(self) -> bool:
        return self.after is not None

    @property
    def _weights(self) -> tuple[tuple[Tensor, Tensor | None], ...]:
        return (self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V)

    def taps(self, stream: Stream) -> Taps:
        normed = _maybe(self.norm, stream)
        return tuple(_project(normed, weight, bias) for weight, bias in self._weights)

    def emit(self, taps: Taps) -> Float[Tensor, "n pos head d_out"]:
        return self._scaled(self._attend(*taps))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, heads: Tensor | None = None) -> Tensor:
        """Mixed values, [n head pos d_head]; keys and values of fewer heads serve equally many query heads each."""
        q, k = self.prepare(q.expand(-1, -1, k.shape[2], -1), k)
        q = q[:, :, -self.bias.shape[1] :]
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        bias = self.bias if heads is None or len(self.bias) == 1 else self.bias[heads]
        if self.soft_cap is None:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        scores = self.soft_cap * torch.tanh(q @ k.transpose(-2, -1) * (self.scale / self.soft_cap))
        return (scores + bias).softmax(-1) @ v

    def _scaled(self, z: Float[Tensor, "n head pos d_head"]) -> Float[Tensor, "n pos head d_out"]:
        """Mixed values, divided by what a norm after attention divides their sum by."""
        z = z.transpose(1, 2)
        if self.after is None:
            return z
        z = functional.pad(z, (0, self.W_O.shape[1] - z.shape[-1]), value=1.0)
        return z / self.after.rms(z.flatten(2) @ self._unscaled)[..., None]

    @property
    def _unscaled(self) -> Float[Tensor, "head_d_out d_model"]:
        return self.W_O.flatten(0, 1) / self.after.gain

    def added(self, state: Float[Tensor, "n pos head d_out"]) -> Stream:
        total = state.flatten(2) @ self.W_O.flatten(0, 1)
        return total if self.b_O is None else total + self.b_O

    def expand(
        self, state: Float[Tensor, "n pos head d_out"], which: Int[Tensor, " u"] | None = None
    ) -> Float[Tensor, "u n pos d_model"]:
        if which is None or len(which) == len(self.W_O):
            return torch.einsum("nshd,hdm->hnsm", state, self.W_O)
        return torch.einsum("nshd,hdm->hnsm", state[:, :, which], self.W_O[which])

    def inputs(self, which: Int[Tensor, " u"]) -> Int[Tensor, " v"]:
        kv = self._kv(which)
        n_heads, n_kv = len(self.W_Q), len(self.W_K)
        return torch.cat([which, n_heads + kv, n_heads + n_kv + kv])

    def _kv(self, which: Int[Tensor, " u"]) -> Int[Tensor, " kv"]:
        return (which // (len(self.W_Q) // len(self.W_K))).unique()

    def split(
        self, reads: Float[Tensor, "c v n pos d_model"], which: Int[Tensor, " u"]
    ) -> Float[Tensor, "c u n query d_model"]:
        kv = self._kv(which)
        normed = _maybe(self.norm, reads)
        q, k, v = normed.split([len(which), len(kv), len(kv)], dim=1)
        q, k, v = (
            _project_each(part, _chosen(weight, rows), _chosen(bias, rows))
            for part, (weight, bias), rows in zip(
                (q[..., -self.bias.shape[1] :, :], k, v), self._weights, (which, kv, kv), strict=True
            )
        )
        if len(kv) < len(which):
            serves = torch.searchsorted(kv, which // (len(self.W_Q) // len(self.W_K)))
            k, v = k[:, serves], v[:, serves]
        z = self._scaled(self._attend(q, k, v, which)).unflatten(0, (len(reads), -1))
        return torch.einsum("cnshd,hdm->chnsm", z, _chosen(self.W_O, which))

    def pull(self, stream: Stream, gradients: Taps, positions: slice) -> Float[Tensor, "v n pos_ d_model"]:
        back = torch.cat(
            [
                torch.einsum("nhsd,hmd->hnsm", gradient[:, :, positions], weight)
                for gradient, (weight, _) in zip(gradients, self._weights, strict=True)
            ]
        )
        return back if self.norm is None else self.norm.pull(stream[:, positions], back)

    def retap(self, taps: Taps, destination: int, read: Stream) -> Taps:
        counts = [len(weight) for weight, _ in self._weights]
        new, first = [], 0
        for tap, (weight, bias), count in zip(taps, self._weights, counts, strict=True):
            tap = tap.repeat(len(read) // len(tap), 1, 1, 1)
            if first <= destination < first + count:
                head = destination - first
                own = _project(
                    _maybe(self.norm, read), weight[head : head + 1], None if bias is None else bias[head : head + 1]
                )
                tap = torch.cat([tap[:, :head], own, tap[:, head + 1 :]], dim=1)
            new.append(tap)
            first += count
        return tuple(new)


@dataclass(frozen=True, eq=False)
class Whole:
    """A stage of one node that is computed as it is, each position by itself: an MLP of any kind, or the logits."""

    compute: Callable[[Tensor], Tensor]
    """Of the residual stream [... pos d_model]; norms before and after included."""
    coupled: bool = False

    def taps(self, stream: Stream) -> Taps:
        return (stream.view_as(stream),)  # of its own, or its gradient would be the whole stream's

    def emit(self, taps: Taps) -> Tensor:
        return self.compute(taps[0])

    def added(self, state: Stream) -> Stream:
        return state

    def expand(self, state: Stream, which: Int[Tensor, " u"] | None = None) -> Float[Tensor, "1 n pos d_model"]:
        return state[None]

    def inputs(self, which: Int[Tensor, " u"]) -> Int[Tensor, " v"]:
        return torch.zeros(1, dtype=torch.long)

    def split(self, reads: Float[Tensor, "c 1 n pos d_model"], which: Int[Tensor, " u"]) -> Tensor:
        return self.compute(reads.flatten(0, 2)).unflatten(0, reads.shape[:3])

    def pull(self, stream: Stream, gradients: Taps, positions: slice) -> Float[Tensor, "1 n pos_ d_model"]:
        return gradients[0][None, :, positions]

    def retap(self, taps: Taps, destination: int, read: Stream) -> Taps:
        return (read,)


def _chosen(weights: Tensor | None, rows: Tensor) -> Tensor | None:
    """Some of the heads' weights, in order; without a copy if that is all of them."""
    return weights if weights is None or len(rows) == len(weights) else weights[rows]


def _maybe(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _project(
    x: Float[Tensor, "n pos d_model"], weight: Float[Tensor, "h d_model d_head"], bias: Float[Tensor, "h d_head"] | None
) -> Float[Tensor, "n h pos d_head"]:
    """Every head's projection of one input."""
    flat = weight.transpose(1, 2).reshape(-1, weight.shape[1])
    out = functional.linear(x, flat, None if bias is None else bias.flatten())
    return out.unflatten(-1, weight.shape[::2]).transpose(1, 2)


def _project_each(
    x: Float[Tensor, "c h n pos d_model"],
    weight: Float[Tensor, "h d_model d_head"],
    bias: Float[Tensor, "h d_head"] | None,
) -> Float[Tensor, "cn h pos d_head"]:
    """Every head's projection of its own input."""
    out = torch.einsum("chnsm,hmd->cnhsd", x, weight).flatten(0, 1)
    return out if bias is None else out + bias[:, None]
