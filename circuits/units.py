"""Units of an MLP as nodes of their own: neurons, or latents of a transcoder or of a sparse autoencoder.

A unit writes its activation times a row of its own. What is left of the MLP is one more node, the rest: it writes what
the whole MLP would for what the rest reads, less what all of the units would. So the nodes add up to the MLP exactly,
however well or badly latents explain it, as long as all of them read the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.stages import Stream, Taps
from workbench.norms import Norm


@runtime_checkable
class Reads(Protocol):
    """What units read, of the residual stream: a norm's output, say."""

    def __call__(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d"]: ...

    def pull(self, x: Float[Tensor, "... d_model"], gradient: Float[Tensor, "u ... d"]) -> Tensor:
        """Gradients with respect to x, given gradients with respect to the output."""
        ...


@dataclass(frozen=True)
class Through:
    """What some function makes of the stream [n pos d_model], differentiated by autograd."""

    compute: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d"]:
        return self.compute(x.flatten(0, -3)).unflatten(0, x.shape[:-2])

    @torch.enable_grad()
    def pull(self, x: Float[Tensor, "... d_model"], gradient: Float[Tensor, "u ... d"]) -> Tensor:
        x = x.detach().requires_grad_()
        out = self(x)
        return torch.stack([torch.autograd.grad(out, x, one, retain_graph=True)[0] for one in gradient])


@dataclass(frozen=True, eq=False)
class Units:
    """A stage of units and, last, the rest of their MLP. Each node reads an input of its own."""

    reads: Reads
    W_in: Float[Tensor, "unit map d"]
    """One linear map of what is read, or two for a gated neuron."""
    b_in: Float[Tensor, "unit map"]
    act: Callable[[Float[Tensor, "... map"]], Float[Tensor, "..."]]
    W_out: Float[Tensor, "unit d_model"]
    """With the weight of a norm after the MLP multiplied in."""
    whole: Callable[[Tensor], Tensor]
    """What the MLP makes of the residual stream [n pos d_model]; a norm after it left out, if there is one."""
    opens: Callable[[Float[Tensor, "... d"]], Float[Tensor, "... unit"]] | None = None
    """1 where latents are active, 0 elsewhere; None if units are always at work."""
    after: Norm | None = None
    """An RMSNorm that the sum of the nodes goes through before it is added (Gemma 2)."""

    @property
    def coupled(self) -> bool:
        return self.after is not None

    def __len__(self) -> int:
        return len(self.W_in)

    def taps(self, stream: Stream) -> Taps:
        read = self.reads(stream)
        return self._maps(read), self._open(read), stream.view_as(stream)

    def emit(self, taps: Taps) -> Float[Tensor, "n pos unit_d_model"]:
        maps, is_open, stream = taps
        return self._scaled(self.act(maps) * is_open, self._rest(stream))

    def activations(self, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... unit"]:
        read = self.reads(stream)
        return self.act(self._maps(read)) * self._open(read)

    def _maps(self, read: Float[Tensor, "... d"]) -> Float[Tensor, "... unit map"]:
        return (read @ self.W_in.flatten(0, 1).T).unflatten(-1, self.b_in.shape) + self.b_in

    def _open(self, read: Float[Tensor, "... d"]) -> Float[Tensor, "... unit"]:
        return read.new_ones(*read.shape[:-1], len(self)) if self.opens is None else self.opens(read)

    def _rest(self, stream: Float[Tensor, "*c n pos d_model"]) -> Float[Tensor, "*c n pos d_model"]:
        whole = self.whole(stream.flatten(0, -3)).unflatten(0, stream.shape[:-2])
        return whole - self.activations(stream) @ self._unscaled

    def _scaled(self, active: Float[Tensor, "... unit"], rest: Float[Tensor, "... d_model"]) -> Tensor:
        """Both beside each other, divided by what a norm after the MLP divides their sum by."""
        if self.after is None:
            return torch.cat([active, rest], dim=-1)
        scale = self.after.rms(active @ self._unscaled + rest)
        return torch.cat([active / scale, rest * (self.after.gain / scale)], dim=-1)

    @property
    def _unscaled(self) -> Float[Tensor, "unit d_model"]:
        return self.W_out if self.after is None else self.W_out / self.after.gain

    def added(self, state: Float[Tensor, "n pos unit_d_model"]) -> Stream:
        return state[..., : len(self)] @ self.W_out + state[..., len(self) :]

    def expand(
        self, state: Float[Tensor, "n pos unit_d_model"], which: Int[Tensor, " u"] | None = None
    ) -> Float[Tensor, "u n pos d_model"]:
        which = torch.arange(len(self) + 1, device=state.device) if which is None else which
        return self._written(state[None], which)[0]

    def _written(
        self, state: Float[Tensor, "c n pos unit_d_model"], which: Int[Tensor, " u"]
    ) -> Float[Tensor, "c u n pos d_model"]:
        """What some of the nodes write; the rest, if it is among them, is the last."""
        units = which[which < len(self)]
        written = torch.einsum("cnsu,ud->cunsd", state[..., units], self.W_out[units])
        return written if len(units) == len(which) else torch.cat([written, state[:, None, ..., len(self) :]], dim=1)

    def inputs(self, which: Int[Tensor, " u"]) -> Int[Tensor, " v"]:
        return which

    def split(
        self, reads: Float[Tensor, "c v n pos d_model"], which: Int[Tensor, " u"]
    ) -> Float[Tensor, "c u n pos d_model"]:
        units = which[which < len(self)]
        active = reads.new_zeros(len(reads), *reads.shape[2:-1], len(self))
        if len(units):
            active[..., units] = self._each(self.reads(reads[:, : len(units)]), units)
        rest = torch.zeros_like(reads[:, 0]) if len(units) == len(which) else self._rest(reads[:, -1])
        return self._written(self._scaled(active, rest), which)

    def _each(self, read: Float[Tensor, "c u n pos d"], units: Int[Tensor, " u"]) -> Float[Tensor, "c n pos u"]:
        """Activations of units that read an input each."""
        maps = torch.einsum("cunsd,umd->cnsum", read, self.W_in[units]) + self.b_in[units]
        if self.opens is None:
            return self.act(maps)
        own = self.opens(read)[..., units].diagonal(dim1=1, dim2=-1)
        return self.act(maps) * own

    def pull(self, stream: Stream, gradients: Taps, positions: slice) -> Float[Tensor, "v n pos_ d_model"]:
        maps, _, rest = (gradient[:, positions] for gradient in gradients)
        back = torch.einsum("nsum,umd->unsd", maps, self.W_in)
        return torch.cat([self.reads.pull(stream[:, positions], back), rest[None]])

    def retap(self, taps: Taps, destination: int, read: Stream) -> Taps:
        times = len(read) // len(taps[2])
        if destination == len(self):
            return (*(tap.repeat(times, *[1] * (tap.ndim - 1)) for tap in taps[:2]), read)
        own = self.reads(read)
        maps, is_open = (tap.repeat(times, *[1] * (tap.ndim - 1)) for tap in taps[:2])
        maps[:, :, destination] = own @ self.W_in[destination].T + self.b_in[destination]
        is_open[:, :, destination] = self._open(own)[..., destination]
        return maps, is_open, taps[2].repeat(times, 1, 1)
