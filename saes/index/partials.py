"""Parts of an index on disk: what was gathered from some of the corpus, in files that merge into exactly the whole.

One file is written over and over while its part grows, and closed when the part reaches the limit of memory. Whoever
merges them holds only a block of latents of the long tables at a time.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from saes.index.accumulator import IndexAccumulator
from saes.index.candidates import Candidates
from saes.index.coactivation import Sample
from saes.index.quantiles import Values
from workbench.errors import DamagedFile
from workbench.files import whole_file

_CANDIDATES = ("latent", "context", "window", "key", "peak", "peak_position")


def write_partial(path: Path, found: IndexAccumulator, facts: dict[str, Any]) -> None:
    """Write what was gathered, with some `facts` in JSON. `found` can go on gathering. Raises `OSError`."""
    pool = found.examples.compact(found.activity.exponent)
    pool = pool.take(pool.latent.argsort(kind="stable"))
    values, sample = found.values.compact(), found.coactivation.whole()
    contexts = found.examples.contexts
    arrays = {
        "n_tokens": np.array([found.activity.n_tokens, found.coactivation.halvings]),
        "maximum": found.activity.maximum,
        "words": found.activity.sum.words,
        "histogram": found.activity.histogram,
        "joint": found.concepts.joint,
        "labelled": found.concepts.n_tokens,
        "contexts.key": np.array(list(contexts), dtype=np.uint64),
        "contexts.tokens": _stacked([context.tokens for context in contexts.values()], np.int32),
        "contexts.documents": _stacked([context.documents for context in contexts.values()], np.int64),
    }
    arrays |= {f"examples.{name}": column for name, column in vars(pool).items()}
    arrays |= {f"values.{name}": column for name, column in vars(values).items()}
    arrays |= {f"sample.{name}": column for name, column in sample._asdict().items()}
    ready = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with whole_file(path) as part:
        try:
            save_file(ready, part, metadata={"facts": json.dumps(facts)})
        except SafetensorError as error:  # it wraps the operating system's error, a full disk among them
            raise OSError(f"cannot write {path}: {error}") from None


def _stacked(rows: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.stack(rows).astype(dtype) if rows else np.zeros((0, 0), dtype)


class Partial:
    """A part that was written. Its arrays are read from the file when they are asked for."""

    def __init__(self, path: Path):
        """Raises `DamagedFile`."""
        try:
            self._file = safe_open(path, framework="numpy")
            self.facts: dict[str, Any] = json.loads(self._file.metadata()["facts"])
        except (SafetensorError, TypeError, KeyError, ValueError, OSError) as error:
            raise DamagedFile(f"{path} is not a part of a feature index ({error}); remove it") from None

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    def candidates(self, start: int, stop: int) -> Candidates:
        """Those of the latents from `start` to before `stop`, sorted by latent."""
        first, last = np.searchsorted(self["examples.latent"], (start, stop)).tolist()
        offset = self._rows("examples.offset", first, last + 1)
        entries = {name: self._rows(f"examples.{name}", *offset[[0, -1]].tolist()) for name in ("position", "value")}
        columns = {name: self._rows(f"examples.{name}", first, last) for name in _CANDIDATES}
        return Candidates(**columns, offset=offset - offset[0], **entries)

    def values(self, start: int, stop: int) -> Values:
        first, last = np.searchsorted(self["values.latent"], (start, stop)).tolist()
        return Values(*(self._rows(f"values.{name}", first, last) for name in ("latent", "key", "value")))

    def counts(self) -> IndexAccumulator:
        """What was gathered, without examples and values."""
        found = IndexAccumulator(len(self["maximum"]), len(self["labelled"]), self.facts["seed"])
        found.activity.n_tokens, found.coactivation.halvings = self["n_tokens"].tolist()
        found.activity.maximum, found.activity.histogram = self["maximum"], self["histogram"]
        found.activity.sum.words = self["words"]
        found.concepts.joint, found.concepts.n_tokens = self["joint"], self["labelled"]
        found.coactivation._add(Sample(*(self[f"sample.{name}"] for name in Sample._fields)))
        return found

    def _rows(self, name: str, first: int, last: int) -> np.ndarray:
        return self._file.get_slice(name)[first:last]


class Parts:
    """Several parts of one index, as if they were one."""

    def __init__(self, paths: Sequence[Path]):
        self.partials = [Partial(path) for path in paths]
        self.counts = self.partials[0].counts()
        for partial in self.partials[1:]:
            self.counts.merge(partial.counts())

    def candidates(self, start: int, stop: int) -> Candidates:
        """Those of the latents from `start` to before `stop`."""
        return Candidates.concatenate([partial.candidates(start, stop) for partial in self.partials])

    def values(self, start: int, stop: int) -> Values:
        return Values.concatenate([partial.values(start, stop) for partial in self.partials])

    def contexts(
        self, keys: UInt64[np.ndarray, " context"]
    ) -> tuple[Int32[np.ndarray, "context pos"], Int64[np.ndarray, "context pos"]]:
        """Tokens and documents of the contexts with these hashes, which are sorted.

        Of contexts with the same tokens, the one whose first document has the lowest number.
        """
        width = max(partial["contexts.tokens"].shape[1] for partial in self.partials)
        tokens = np.zeros((len(keys), width), dtype=np.int32)
        documents = np.full((len(keys), width), np.iinfo(np.int64).max)
        for partial in self.partials:
            known = partial["contexts.key"]
            wanted = np.flatnonzero(np.isin(known, keys))
            if not len(wanted):
                continue
            row = np.searchsorted(keys, known[wanted])
            new = partial["contexts.documents"][wanted]
            better = new[:, 0] < documents[row, 0]
            tokens[row[better]] = partial["contexts.tokens"][wanted[better]]
            documents[row[better]] = new[better]
        return tokens, documents
