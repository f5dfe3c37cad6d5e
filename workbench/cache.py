"""Activations on disk, or at a URL: harvested once, read by every run that wants the same.

A cache is a record of a harvest, in the order of the corpus (which is random: see `workbench.packing`). A shard is
named after the place in the corpus where it begins, and says where it ends, which is where the next one begins. So
reading needs no index, a killed writer leaves whole shards only, and whoever reads past the last shard harvests and
adds the next. A run reads the same rows from a cache as from the model, and mixes them in the same buffer.
"""

import zlib
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.corpus import Position
from workbench.errors import DamagedFile, SettingError
from workbench.folders import open_folder

MANIFEST_FILE = "manifest.json"
SUFFIX = ".safetensors"
SHARD_BYTES = 2**26
"""Size at which a shard is written: 64 MiB."""

Rows = Generator[tuple[Float[Tensor, "row d"], Position], None, Position]
"""Rows of activations, each batch with the place in the corpus that follows it; returns the last of these."""


@dataclass(frozen=True)
class Contents:
    """What the rows of a cache are; all but the sites must be equal for a run to read it."""

    model_fingerprint: str
    corpus_fingerprint: str
    context: int
    batch_size: int
    """Contexts that the model reads at once; a shard holds whole batches."""
    skip: tuple[int, ...]
    """Token ids that are left out."""
    dtype: str
    sites: dict[str, int]
    """The width of each site; they lie side by side in a row."""


class ActivationCache:
    """A folder of activations, read as if it held the whole corpus.

    `harvest(position, sites)` gives what it does not hold yet, and what it gives is kept. A cache of more sites than
    are asked for serves as well.
    """

    def __init__(
        self, where: str | Path, contents: Contents, harvest: Callable[[Position, tuple[str, ...]], Rows]
    ) -> None:
        """Raises `SettingError` if there is something else at that path or URL, `DamagedFile` if the manifest is
        broken.
        """
        self._folder = open_folder(where)
        self._sites = self._open(contents)
        self._columns = _columns(self._sites, tuple(contents.sites))
        self._harvest = harvest

    def _open(self, wanted: Contents) -> dict[str, int]:
        """The sites that the cache holds; a new one is begun."""
        if not self._folder.names():
            self._folder.write_json(MANIFEST_FILE, asdict(wanted))
            return wanted.sites
        found = self._folder.read_json(MANIFEST_FILE)
        if not isinstance(found, dict) or found.keys() != asdict(wanted).keys():
            raise DamagedFile(f"{self._folder.place(MANIFEST_FILE)} is not the manifest of an activation cache")
        names = {"model_fingerprint": "model", "corpus_fingerprint": "corpus, or of the same in another order (seed)"}
        for name, value in asdict(wanted).items():
            held = tuple(found[name]) if name == "skip" else found[name]
            if name != "sites" and held != value:
                what = f"another {names.get(name, name)}" + ("" if name in names else f" ({held}, not {value})")
                raise SettingError(f"the cache {self._folder} is of {what}; give another directory")
        if missing := [site for site in wanted.sites if site not in found["sites"]]:
            held = ", ".join(found["sites"])
            raise SettingError(f"the cache {self._folder} holds {held}, and not {missing[0]}; give another directory")
        return found["sites"]

    def rows_from(self, position: Position) -> Rows:
        """Rows from a place in the corpus on, without end; raises `DamagedFile`, naming it, for a shard that is broken.

        Closed, it keeps what was harvested since the last shard.
        """
        while True:
            shard = self._holding(position)
            batches = self._read(shard, position) if shard else self._extend(position)
            position = yield from self._select(batches)

    def _select(self, batches: Rows) -> Rows:
        if self._columns is None:
            return (yield from batches)
        try:
            while True:
                rows, position = next(batches)
                yield rows[:, self._columns], position
        except StopIteration as end:
            return end.value
        finally:
            batches.close()

    def _holding(self, position: Position) -> str | None:
        """The shard that holds the rows which follow `position`."""
        begins = {self._begin(name): name for name in self._folder.names() if name.endswith(SUFFIX)}
        first = max((begin for begin in begins if begin <= position), default=None)
        if first is None:
            return None
        ends = self._tensors(begins[first])["positions"].tolist() if first < position else [None]
        return begins[first] if first == position or list(position) in ends[:-1] else None

    def _tensors(self, shard: str) -> dict[str, Tensor]:
        tensors, place = self._folder.read_tensors(shard), self._folder.place(shard)
        if tensors.keys() != {"rows", "counts", "positions", "checksum"}:
            raise DamagedFile(f"{place} is not a shard of an activation cache")
        if _checksum(tensors["rows"]) != tensors["checksum"].item():
            raise DamagedFile(f"{place} is damaged: its checksum does not fit; delete it, and it is harvested again")
        return tensors

    def _read(self, shard: str, position: Position) -> Rows:
        tensors, end = self._tensors(shard), self._begin(shard)
        for rows, after in zip(
            tensors["rows"].split(tensors["counts"].tolist()), tensors["positions"].tolist(), strict=True
        ):
            begin, end = end, Position(*after)
            if begin >= position:
                yield rows, end
        return end

    def _extend(self, position: Position) -> Rows:
        """Harvest and keep, up to the next shard that is there already."""
        begin, batches, size = position, [], 0
        harvested = self._harvest(position, tuple(self._sites))
        try:
            for rows, end in harvested:
                batches.append((rows.cpu(), end))
                size += rows.nbytes
                yield rows, end
                if size >= SHARD_BYTES:
                    full, batches, size = batches, [], 0
                    self._write(begin, full)
                    begin = end
                    if self._holding(begin):
                        break
            return begin
        finally:
            harvested.close()
            if batches:
                self._write(begin, batches)

    def _write(self, begin: Position, batches: list[tuple[Tensor, Position]]) -> None:
        rows = torch.cat([rows for rows, _ in batches])
        shard = {
            "rows": rows,
            "counts": torch.tensor([len(rows) for rows, _ in batches]),
            "positions": torch.tensor([end for _, end in batches]),
            "checksum": torch.tensor(_checksum(rows)),
        }
        self._folder.write_tensors("-".join(map(str, begin)) + SUFFIX, shard)

    def _begin(self, shard: str) -> Position:
        try:
            return Position(*map(int, shard.removesuffix(SUFFIX).split("-")))
        except (ValueError, TypeError):
            raise DamagedFile(f"{self._folder.place(shard)} is not a shard of an activation cache") from None


def _columns(held: dict[str, int], wanted: tuple[str, ...]) -> Tensor | None:
    """Where the wanted sites lie in a row; None if they are the row."""
    if tuple(held) == wanted:
        return None
    starts, total = {}, 0
    for site, width in held.items():
        starts[site], total = total, total + width
    return torch.cat([torch.arange(starts[site], starts[site] + held[site]) for site in wanted])


def _checksum(rows: Tensor) -> int:
    return zlib.crc32(rows.contiguous().view(torch.uint8).numpy())
