"""Which units of a model's MLPs are nodes of their own: neurons, or latents of transcoders or sparse autoencoders."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from circuits.latents import encode
from circuits.units import Reads, Through, Units
from saes.architectures.transcoder import MLP_OUTPUT
from saes.sae import SAE
from workbench.errors import ModelError, SettingError
from workbench.model import HookedModel
from workbench.norms import Norm
from workbench.weights import mlp_weights

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    functional.gelu,
    partial(functional.gelu, approximate="tanh"),
    functional.silu,
    functional.relu,
    lambda x: functional.relu(x).square(),
)
"""What the neurons of language models do to what they read."""
ENTRIES = 2**24
"""Latents' activations that are held at a time."""
NAMED = re.compile(r"m(\d+)\.([nf])(\d+)")
"""Nodes of units: `m2.n17`, neuron 17 of layer 2, or `m2.f17`, a latent."""


@dataclass(frozen=True, eq=False)
class MLP:
    """An MLP as a layout has it."""

    model: HookedModel
    layer: int
    tokens: Int[Tensor, "1 pos"]
    norm: Norm | None
    """Between the residual stream and the MLP."""
    inner: Callable[[Tensor], Tensor]
    """Of the residual stream, up to the norm after the MLP."""
    after: Norm | None
    """That norm."""

    def outer(self, x: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d_model"]:
        """What is added to the residual stream."""
        return self.inner(x) if self.after is None else self.after(self.inner(x))

    @property
    def read(self) -> Reads:
        """What its neurons read of the residual stream."""
        return Through(_same) if self.norm is None else self.norm

    @property
    def normalized(self) -> Reads:
        """The same without the norm's gain and bias, `ln2.hook_normalized`."""
        if self.norm is None:
            return self.read
        gain, bias = torch.ones_like(self.norm.gain), torch.zeros_like(self.norm.bias)
        return replace(self.norm, gain=gain, bias=bias)

    def sites(self, *names: str) -> list[Tensor]:
        """Activations of the block for the tokens."""
        where = [f"blocks.{self.layer}.{name}" for name in names]
        run = self.model.run(self.tokens, capture=where)
        return [run[site] for site in where]


@runtime_checkable
class Choice(Protocol):
    """Some units of an MLP."""

    numbers: Sequence[int]

    @property
    def names(self) -> tuple[str, ...]:
        """As `n17`."""
        ...

    def stage(self, mlp: MLP) -> Units:
        """Raises `ModelError` and `SettingError` if the units are not there."""
        ...

    def only(self, numbers: Sequence[int]) -> "Choice":
        """Other units of the same kind."""
        ...


@dataclass(frozen=True)
class Neurons:
    """Neurons of an MLP, by number."""

    numbers: Sequence[int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in self.numbers)

    def only(self, numbers: Sequence[int]) -> "Neurons":
        return Neurons(numbers)

    @torch.no_grad()
    def stage(self, mlp: MLP) -> Units:
        weights = mlp_weights(mlp.model, mlp.layer)
        _check(self.numbers, len(weights.W_out), f"neurons of layer {mlp.layer}")
        if mlp.after is not None and (mlp.after.centred or mlp.after.bias.any()):
            raise ModelError("a norm after an MLP must be an RMSNorm for its neurons to be told apart")
        gated = weights.W_gate is not None
        maps = [(weights.W_gate, torch.zeros_like(weights.b_in))] if gated else []
        maps.append((weights.W_in, weights.b_in))
        act = _activation(mlp, gated)
        chosen = list(self.numbers)
        return Units(
            mlp.read,
            torch.stack([weight.detach().T[chosen] for weight, _ in maps], dim=1),
            torch.stack([bias.detach()[chosen] for _, bias in maps], dim=1),
            partial(_gated if gated else _plain, act),
            weights.W_out.detach()[chosen] * (1 if mlp.after is None else mlp.after.gain),
            mlp.inner,
            after=mlp.after,
        )


def _activation(mlp: MLP, gated: bool) -> Callable[[Tensor], Tensor]:
    """The function that turns what the neurons read into what they do, found by what it does.

    Raises `ModelError` for one that is none of `ACTIVATIONS`.
    """
    pre, post, *linear = mlp.sites("mlp.hook_pre", "mlp.hook_post", *(["mlp.hook_pre_linear"] if gated else []))
    maps = torch.stack([pre, *linear], dim=-1)
    off = [float((_gated(f, maps) if gated else _plain(f, maps)).sub(post).norm()) for f in ACTIVATIONS]
    if not min(off) < 1e-4 * float(post.norm()):
        raise ModelError(f"the neurons of {mlp.model.info.architecture} have a non-linearity that is not known here")
    return ACTIVATIONS[off.index(min(off))]


def _plain(act: Callable, maps: Float[Tensor, "... 1"]) -> Float[Tensor, "..."]:
    return act(maps[..., 0])


def _gated(act: Callable, maps: Float[Tensor, "... 2"]) -> Float[Tensor, "..."]:
    return act(maps[..., 0]) * maps[..., 1]


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents, by number, of a transcoder of the MLP, or of a sparse autoencoder on its output."""

    sae: SAE
    numbers: Sequence[int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"f{number}" for number in self.numbers)

    def only(self, numbers: Sequence[int]) -> "Latents":
        return Latents(self.sae, numbers)

    @torch.no_grad()
    def stage(self, mlp: MLP) -> Units:
        sae, chosen = self.sae, torch.tensor(self.numbers)
        _check(self.numbers, sae.cfg.d_sae, f"latents of layer {mlp.layer}")
        name = sae.route.reads[0].split(".", 2)[2]
        (read,) = mlp.sites(name)
        W_in = sae.W_enc.detach().T.to(read)
        b_in = sae.b_enc.detach().to(read) if hasattr(sae, "b_enc") else read.new_zeros(len(W_in))
        if sae.centre is not None:
            b_in = b_in - W_in @ sae.centre.detach().to(read)
        active, pre = encode(sae, read).to(read), read @ W_in.T + b_in
        if not torch.allclose(active, pre * (active > 0), rtol=1e-3, atol=1e-3 * float(active.abs().max()) + 1e-6):
            raise SettingError(f"an active latent of a {sae.architecture} is not its pre-activation, so has no edges")
        identity = Through(_same)
        reads = {"hook_resid_mid": identity, "ln2.hook_normalized": mlp.normalized, MLP_OUTPUT: Through(mlp.outer)}
        return Units(
            reads[name],
            W_in[chosen, None],
            b_in[chosen, None],
            _first,
            sae.W_dec.detach().to(read)[chosen],
            mlp.outer,
            partial(_opens, sae, chosen),
        )


def _first(maps: Float[Tensor, "... 1"]) -> Float[Tensor, "..."]:
    return maps[..., 0]


@torch.no_grad()
def _opens(sae: SAE, chosen: Int[Tensor, " unit"], read: Float[Tensor, "... d"]) -> Float[Tensor, "... unit"]:
    rows = read.flatten(0, -2).split(max(1, ENTRIES // sae.cfg.d_sae))
    is_open = [(encode(sae, some)[:, chosen] > 0).to(read) for some in rows]
    return torch.cat(is_open).unflatten(0, read.shape[:-1])


def _check(numbers: Sequence[int], count: int, what: str) -> None:
    wrong = [number for number in numbers if not 0 <= number < count]
    if wrong:
        raise SettingError(f"there is no number {wrong[0]} among the {count} {what}")
    if len(set(numbers)) < len(numbers):
        raise SettingError(f"the {what} name one of them twice: {list(numbers)}")


def all_units(model: HookedModel, saes: Mapping[int, SAE] | None = None) -> dict[int, Choice]:
    """Every neuron of every MLP; or every latent of some transcoders or autoencoders."""
    if saes is not None:
        return {layer: Latents(sae, range(sae.cfg.d_sae)) for layer, sae in saes.items()}
    layers = range(model.info.n_layers)
    return {layer: Neurons(range(len(mlp_weights(model, layer).W_out))) for layer in layers}


def chosen_again(sources: Sequence[str], saes: Mapping[int, SAE]) -> dict[int, Choice]:
    """The choice that a graph was made with, by the names of its sources. Raises `SettingError` if an SAE lacks."""
    found: dict[tuple[int, str], list[int]] = {}
    for name in sources:
        if match := NAMED.fullmatch(name):
            found.setdefault((int(match[1]), match[2]), []).append(int(match[3]))
    if lacking := [layer for layer, kind in found if kind == "f" and layer not in saes]:
        raise SettingError(f"the circuit has latents of layer {lacking[0]}; give the directory that they are in")
    return {
        layer: Neurons(numbers) if kind == "n" else Latents(saes[layer], numbers)
        for (layer, kind), numbers in found.items()
    }
