"""Edits: changes to the activation at a site during a run.

An edit names a site (a pattern with `*` edits every layer), and may be restricted to some heads and positions; the rest
of the activation stays as it is. Edits at one site apply in the order given.

Positions count from the start of the sequence; a negative one counts back from the end of the tokens handed in, which
in generation is the end of the *prompt*. A slice left open at its end covers everything that is generated. At attention
scores and patterns, positions select queries.

Tensors given to an edit broadcast, by NumPy's rules, against the selected part of the activation:
[batch position d], with heads [batch position head d], of scores and patterns [batch head query key].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import EditError
from workbench.sites import axes

Selection = int | Sequence[int] | slice | None


class Window(NamedTuple):
    """The stretch of a sequence that one forward pass computes: all of it or, with a KV cache, the newest position."""

    start: int
    """The first position computed."""
    stop: int
    """One past the last position computed."""
    origin: int
    """Where negative positions count back from: the number of tokens handed in."""
    limit: int
    """One past the last position that the sequence may come to have; selecting it or a later one is an error."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A change to the activation at a site; made by the functions of this module."""

    site: str
    change: Callable[..., Tensor]
    """(selected part of the activation, *values) -> what takes its place, of the same shape."""
    values: tuple[Tensor, ...] = ()
    """Tensors that broadcast against the selected part."""
    positions: Selection = None
    heads: Selection = None
    name: str = "edit"

    def apply(self, activation: Float[Tensor, "batch ..."], site: str, window: Window) -> Float[Tensor, "batch ..."]:
        """The edited activation, as a new tensor; raises `EditError` if heads, positions or values do not fit."""
        axis = axes(site)
        try:
            chosen = _positions(self.positions, window)
            rows = [row for row, position in enumerate(chosen) if window.start <= position < window.stop]
            if not rows:
                return activation
            picks = []
            if self.positions is not None:
                picks.append((axis.position, _index([chosen[row] - window.start for row in rows], activation)))
            if self.heads is not None:
                picks.append((axis.head, _index(_heads(self.heads, axis.head, activation), activation)))
            part = activation
            for dim, index in picks:
                part = part.index_select(dim, index)
            values = (_fit(value, part, axis.position, len(chosen), rows) for value in self.values)
            new = self.change(part, *values)
            if new.shape != part.shape:
                raise EditError(f"it turned {_shape(part)} into {_shape(new)}, but the shape must stay")
        except EditError as error:
            raise EditError(f"{self.name} at {site}: {error}") from None
        return _write_back(activation, picks, new.to(activation.dtype))


def _positions(selection: Selection, window: Window) -> Sequence[int]:
    """The absolute positions selected so far, in the order selected; some may be yet to come."""
    if selection is None:
        return range(window.stop)
    if isinstance(selection, slice):
        start = _absolute(selection.start or 0, window.origin)
        stop = window.stop if selection.stop is None else _absolute(selection.stop, window.origin)
        return range(max(start, 0), min(stop, window.limit), selection.step or 1)
    wanted = [selection] if isinstance(selection, int) else list(selection)
    chosen = [_absolute(position, window.origin) for position in wanted]
    for position, given in zip(chosen, wanted, strict=True):
        if not 0 <= position < window.limit:
            raise EditError(f"position {given} is outside the sequence of {window.limit} positions")
    _refuse_repeats("position", chosen)
    return chosen


def _absolute(position: int, origin: int) -> int:
    return position + origin if position < 0 else position


def _heads(selection: int | Sequence[int] | slice, dim: int | None, activation: Tensor) -> list[int]:
    if dim is None:
        raise EditError(f"heads= has no meaning here, the activation {_shape(activation)} has no head axis")
    n_heads = activation.shape[dim]
    if isinstance(selection, slice):
        return list(range(n_heads))[selection]
    wanted = [selection] if isinstance(selection, int) else list(selection)
    for head in wanted:
        if not -n_heads <= head < n_heads:
            raise EditError(f"head {head} is out of range, the activation {_shape(activation)} has {n_heads} heads")
    chosen = [head % n_heads for head in wanted]
    _refuse_repeats("head", chosen)
    return chosen


def _refuse_repeats(noun: str, chosen: list[int]) -> None:
    if len(set(chosen)) < len(chosen):
        raise EditError(f"a {noun} is selected twice in {chosen}")


def _fit(value: Tensor, part: Tensor, dim: int, n_chosen: int, rows: list[int]) -> Tensor:
    """`value` on the device and in the dtype of `part`, with only the rows that are being computed."""
    full = (*part.shape[:dim], n_chosen, *part.shape[dim + 1 :])
    if value.ndim > len(full) or any(
        have not in (1, want) for have, want in zip(value.shape[::-1], full[::-1], strict=False)
    ):
        raise EditError(f"a value of shape {_shape(value)} does not fit the activation's {list(full)}")
    value = value.to(device=part.device, dtype=part.dtype)
    axis = dim - len(full)  # counted from the right, as broadcasting does
    if value.ndim >= -axis and value.shape[axis] > 1 and len(rows) < n_chosen:
        return value.index_select(axis, _index(rows, value))
    return value


def _write_back(activation: Tensor, picks: list[tuple[int, Tensor]], new: Tensor) -> Tensor:
    if not picks:
        return new
    (dim, index), *rest = picks
    inner = _write_back(activation.index_select(dim, index), rest, new) if rest else new
    return activation.index_copy(dim, index, inner)


def _index(numbers: list[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long, device=like.device)


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def add(
    site: str,
    vector: Float[Tensor, "..."],
    scale: float | int = 1.0,
    *,
    positions: Selection = None,
    heads: Selection = None,
) -> Edit:
    """Add `scale` times a vector (activation addition: Turner et al. 2023, arXiv:2308.10248)."""
    return Edit(site, lambda part, vector: part + scale * vector, (vector,), positions, heads, "add")


def replace(site: str, value: Float[Tensor, "..."], *, positions: Selection = None, heads: Selection = None) -> Edit:
    """Put `value` in place of the activation; with a value from another run this is activation patching."""
    return Edit(site, lambda part, value: value.expand_as(part).clone(), (value,), positions, heads, "replace")


def ablate(
    site: str,
    how: str = "zero",
    value: Float[Tensor, "..."] | None = None,
    *,
    seed: int = 0,
    positions: Selection = None,
    heads: Selection = None,
) -> Edit:
    """Take away what the activation says about this input.

    zero: put zeros. mean: put `value`, a mean over other inputs. resample: put `value`, the activation of another run;
    without one, every row of the batch gets the activation of another row, by one random cycle drawn from `seed`.
    """
    if how == "zero":
        return Edit(site, torch.zeros_like, (), positions, heads, "zero ablation")
    if how not in ("mean", "resample"):
        raise EditError(f"ablation has no how={how!r}; it has 'zero', 'mean' and 'resample'")
    name = f"{how} ablation"
    if value is not None:
        return Edit(site, lambda part, value: value.expand_as(part).clone(), (value,), positions, heads, name)
    if how == "mean":
        raise EditError("mean ablation needs value=, the mean activation")
    return Edit(site, lambda part: part[random_cycle(len(part), seed)], (), positions, heads, name)


def random_cycle(n_rows: int, seed: int) -> Tensor:
    """A permutation that is one random cycle, so that no row keeps its own activation."""
    if n_rows < 2:
        raise EditError("a batch of one row has no other row to resample from; give value=, from another run")
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    cycle = torch.empty_like(order)
    cycle[order] = order.roll(1)
    return cycle


def scale(site: str, factor: float | int, *, positions: Selection = None, heads: Selection = None) -> Edit:
    """Multiply the activation by `factor`."""
    return Edit(site, lambda part: part * factor, (), positions, heads, "scale")


def project_out(
    site: str, direction: Float[Tensor, "... d"], *, positions: Selection = None, heads: Selection = None
) -> Edit:
    """Remove the component along `direction` (directional ablation: Arditi et al. 2024, arXiv:2406.11717, eq. 4).

    With one row per head, each head loses its own direction. The direction need not be of unit length, but not zero.
    """
    unit = _unit("project_out", direction)
    return Edit(
        site,
        lambda part, unit: part - (part * unit).sum(dim=-1, keepdim=True) * unit,
        (unit,),
        positions,
        heads,
        "project_out",
    )


def clamp(
    site: str,
    direction: Float[Tensor, "... d"],
    value: float | int = 0.0,
    *,
    positions: Selection = None,
    heads: Selection = None,
) -> Edit:
    """Set the component along `direction` to `value`, in the activation's own units, whatever it was.

    At 0 this is `project_out`. With one row per head, each head's own direction. The direction need not be of unit
    length, but not zero.
    """
    unit = _unit("clamp", direction)
    return Edit(
        site,
        lambda part, unit: part + (value - (part * unit).sum(dim=-1, keepdim=True)) * unit,
        (unit,),
        positions,
        heads,
        "clamp",
    )


def _unit(name: str, direction: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    length = direction.norm(dim=-1, keepdim=True)
    if (length == 0).any():
        raise EditError(f"{name} needs a direction, and was given a vector of zeros")
    return direction / length


def splice(
    site: str,
    module: Any,
    *,
    error_term: bool = False,
    latents: Callable[[Tensor], Tensor] | None = None,
    positions: Selection = None,
    heads: Selection = None,
) -> Edit:
    """Route the activation through `module`: an SAE, or any callable that keeps the shape.

    With `error_term`, what the module fails to reconstruct is added back as a constant, so that the run is unchanged
    except for what `latents` does, and gradients flow through the module only (Marks et al. 2024, arXiv:2403.19647).
    `latents` edits what `module.encode` returns before `module.decode` is called on it.
    """

    def change(part: Tensor) -> Tensor:
        if latents is None:
            output = reconstruction = module(part)
        else:
            encoded = module.encode(part)
            reconstruction = module.decode(encoded) if error_term else None
            output = module.decode(latents(encoded))
        return output + (part - reconstruction).detach() if error_term else output

    return Edit(site, change, (), positions, heads, "splice")
