"""Sweeps: the same change made at one place after another, many places a forward pass.

The places are the cells of a grid: every site that a pattern names, and within it every index along chosen axes of the
activation. A run with one cell changed starts at that cell's layer and position (`workbench.suffix`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import sites as site_names
from workbench.edits import Edit, Selection, Window
from workbench.errors import SettingError
from workbench.info import ModelInfo
from workbench.model import HookedModel
from workbench.suffix import RESID, BaseRun

Substitute = Callable[[str, Tensor, slice], Tensor]
"""(site, activation [copy batch ...], positions computed) -> what takes its place where a cell is changed."""
Score = Callable[[Float[Tensor, "copy batch ..."]], Float[Tensor, "copy batch"]]
"""Logits, at the last position or at each, to a number for each prompt."""
Measure = Callable[[str, Bool[Tensor, "copy ..."], int], Float[Tensor, "copy batch"]]
"""(site, masks of some cells, first position to compute) -> a number for each prompt with each of the cells changed."""
OnProgress = Callable[[int, int], None]
"""Called with how much is done, and how much there is to do."""
ELEMENTS = 2**24
"""The largest activation that a forward pass may make, in numbers; it bounds the memory."""


@dataclass(frozen=True)
class Place:
    """A part of the activations: some heads at some positions of a site, or of every layer's."""

    site: str
    heads: Selection = None
    """All, by default. Keys and values have `n_kv_heads`."""
    positions: Selection = None

    def __str__(self) -> str:
        parts = [f", {name} {value}" for name, value in (("heads", self.heads), ("positions", self.positions))]
        return self.site + "".join(part for part in parts if not part.endswith(" None"))

    def each(self, model: HookedModel) -> list["Place"]:
        """The place at each site that it names. Raises `UnknownSite`."""
        return [replace(self, site=site) for site in site_names.expand(self.site, model.sites)]

    def mask(self, activation: Float[Tensor, "batch ..."]) -> Bool[Tensor, "copy ..."]:
        """Which entries of one prompt's activation it covers. Raises `EditError` if there are no such."""
        length = activation.shape[site_names.axes(self.site).position]
        edit = Edit(self.site, torch.ones_like, positions=self.positions, heads=self.heads, name="selection")
        return edit.apply(torch.zeros_like(activation[:1]), self.site, Window(0, length, length, length)).bool()


POSITIONAL = {"position", "query", "key"}
"""The axes that count positions."""


def axes(site: str) -> dict[str, int]:
    """The axes of the activation at a site that cells can be told apart by, by name."""
    axis = site_names.axes(site)
    if axis.position == 2:
        return {"head": 1, "query": 2, "key": 3}
    if axis.head is not None:
        return {"position": 1, "head": axis.head}
    return {"position": 1, "neuron": 2} if ".mlp." in site else {"position": 1}


@dataclass(frozen=True)
class Grid:
    """The cells of a sweep: (site, index along each axis of `by`)."""

    sites: tuple[str, ...]
    by: tuple[str, ...]
    sizes: tuple[int, ...]
    """How long each axis of `by` is."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sites), *self.sizes)

    def cells(self) -> Int[Tensor, "cell axis"]:
        """The cells of one site, the last axis counting fastest."""
        return torch.ones(self.sizes).nonzero()

    def starts(self) -> Int[Tensor, " cell"]:
        """The first position at which a cell changes anything."""
        first = next((axis for axis, name in enumerate(self.by) if name in ("position", "query")), None)
        cells = self.cells()
        return torch.zeros(len(cells), dtype=torch.long) if first is None else cells[:, first]

    def masks(self, cells: Int[Tensor, "copy axis"]) -> Bool[Tensor, "copy ..."]:
        """For each cell, a mask that broadcasts against the activation of one prompt."""
        places = axes(self.sites[0])
        n_dims = 3 if site_names.axes(self.sites[0]).head is None else 4
        mask = torch.ones(len(cells), *[1] * (n_dims - 1), dtype=torch.bool)
        for column, (name, size) in enumerate(zip(self.by, self.sizes, strict=True)):
            shape = [len(cells)] + [1] * (mask.ndim - 1)
            shape[places[name]] = size
            mask = mask & (cells[:, column, None] == torch.arange(size)).reshape(shape)
        return mask


def grid(base: BaseRun, pattern: str, by: Sequence[str]) -> Grid:
    """The cells of the sites that `pattern` names; the base run must have captured them.

    Raises `UnknownSite`; `SettingError` for sites outside the layers, and for an axis that they do not have.
    """
    names = site_names.expand(pattern, base.model.sites)
    if site_names.layer_of(names[0]) is None:
        raise SettingError(f"{names[0]} lies outside the layers; name a site of a layer, such as {RESID}")
    known = axes(names[0])
    for name in by:
        if name not in known:
            raise SettingError(f"{pattern} has no axis {name!r}; it has {', '.join(known)}")
    if len(set(by)) < len(by):
        raise SettingError(f"an axis is named twice in {', '.join(by)}")
    return Grid(names, tuple(by), tuple(base[names[0]].shape[known[name]] for name in by))


def sweep(
    base: BaseRun, grid: Grid, measure: Measure, *, whole: bool = False, on_progress: OnProgress | None = None
) -> Float[Tensor, "*cells batch"]:
    """The measure of each prompt with each cell changed, one cell at a time.

    The measure is taken of many cells of one site at once, from the first position on that any of them changes; of
    all positions for `whole`, with the memory for their logits.
    """
    cells, starts, n_batch = grid.cells(), grid.starts(), len(base.tokens)
    if whole or not base.past:
        starts = torch.zeros_like(starts)
    starts = shared_starts(starts, overhead(base.model) // n_batch)
    values = torch.empty(len(grid.sites), len(cells), n_batch)
    done = 0
    for start in starts.unique().tolist():
        copies = max(1, rows_at_once(base.model.info, base.n_pos, start, whole) // n_batch)
        for chunk in (starts == start).nonzero()[:, 0].split(copies):
            mask = grid.masks(cells[chunk])
            for row, site in enumerate(grid.sites):
                values[row, chunk] = measure(site, mask, start).float().cpu()
                done += len(chunk)
                if on_progress:
                    on_progress(done, values[..., 0].numel())
    return values.reshape(*grid.shape, n_batch)


def progress_of_batch(on_progress: OnProgress | None, done: int, batch: int, of: int) -> OnProgress | None:
    """Progress over the cells of one batch of prompts, told as progress over the cells of all prompts."""
    if on_progress is None:
        return None
    return lambda cell, cells: on_progress(done * cells + cell * batch, of * cells)


def changed(base: BaseRun, substitute: Substitute, score: Score, *, whole: bool = False) -> Measure:
    """The score of the run with `substitute` put where the mask says; of logits at every position for `whole`."""

    def measure(site: str, mask: Bool[Tensor, "copy ..."], start: int) -> Float[Tensor, "copy batch"]:
        edit, copies = masked(base, site, mask, substitute, start), len(mask)
        layer = site_names.layer_of(site)
        run = base.resume(layer, edits=[edit], start=start, copies=copies, every_position=whole)
        logits = run.logits.unflatten(0, (copies, len(base.tokens)))
        return score(logits if whole else logits[:, :, -1])

    return measure


def overhead(model: HookedModel) -> int:
    """What a pass costs beside its arithmetic, as a number of positions that could be computed instead (measured)."""
    positions = 40 + 5_000_000 // model.info.d_model**2
    return positions if model.device.type == "cpu" else 100 * positions


def shared_starts(starts: Int[Tensor, " cell"], waste: int) -> Int[Tensor, " cell"]:
    """Starts moved back to share passes; for each pass, less than `waste` positions more than needed are computed."""
    shared, first, wasted = starts.clone(), 0, waste
    for start in starts.unique().tolist():
        here = starts == start
        wasted += int(here.sum()) * (start - first)
        if wasted >= waste:
            first, wasted = start, 0
        shared[here] = first
    return shared


def masked(base: BaseRun, site: str, mask: Bool[Tensor, "copy ..."], substitute: Substitute, start: int) -> Edit:
    """An edit of copies of the base run, from position `start` on, where the mask of each copy says so."""
    positions = slice(start, base.n_pos)
    mask = cut(site, mask, positions).to(base.model.device)

    def change(part: Tensor) -> Tensor:
        copies = part.unflatten(0, (len(mask), len(base.tokens)))
        return torch.where(mask[:, None], substitute(site, copies, positions), copies).flatten(0, 1)

    return Edit(site, change, name="sweep")


def cut(site: str, value: Tensor, positions: slice) -> Tensor:
    """Only some positions of an activation, or of what broadcasts against it."""
    dim = site_names.axes(site).position
    return value if value.shape[dim] == 1 else value[(slice(None),) * dim + (positions,)]


def put(values: Mapping[str, Float[Tensor, "batch ..."]]) -> Substitute:
    """Substitutes activations by site: those of another run, or what broadcasts against them."""
    return lambda site, part, positions: cut(site, values[site], positions).to(part)


def rows_at_once(info: ModelInfo, n_pos: int, start: int = 0, whole: bool = False) -> int:
    """How many prompts fit a forward pass, so that none of its activations is larger than `ELEMENTS`."""
    computed = n_pos - start
    widest = max(info.d_mlp or 0, 4 * info.d_model, info.n_heads * n_pos)
    return max(1, ELEMENTS // max(computed * widest, info.d_vocab * (n_pos if whole else 1)))
