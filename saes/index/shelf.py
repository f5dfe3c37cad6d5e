"""Where the parts of an unfinished index lie: a hidden folder in the SAE's directory, kept until the index is whole."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saes.index.accumulator import IndexAccumulator
from saes.index.partials import Partial, write_partial
from workbench.corpus import START, Position
from workbench.errors import DamagedFile

FOLDER = ".features.parts"


@dataclass(frozen=True)
class Job:
    """What is being indexed. Parts belong together if theirs are equal."""

    sae: str
    """Fingerprint, as of the model and the corpus."""
    model: str
    corpus: str
    site: str
    n_tokens: int
    batch_size: int
    seed: int
    shares: int = 1
    """Into how many shares the corpus is divided, batch by batch in turn."""


@dataclass(frozen=True)
class Progress:
    """How far a share has read the corpus, counting the batches of the other shares."""

    position: Position = START
    n_batches: int = 0
    n_tokens: int = 0
    done: bool = False


class Shelf:
    """The parts in one SAE's directory."""

    def __init__(self, directory: Path):
        self.folder = directory / FOLDER

    def resume(self, job: Job, share: int) -> tuple[Progress, int]:
        """How far the share came, and how many parts it has. Parts of another job are removed."""
        paths = self._paths(share, job.shares)
        facts = [_facts(path) for path in paths]
        if any(fact is None or fact["job"] != asdict(job) for fact in facts):
            for path in paths:
                path.unlink()
            return Progress(), 0
        if not facts:
            return Progress(), 0
        last = facts[-1]["progress"]
        return Progress(**last | {"position": Position(*last["position"])}), len(paths)

    def write(self, job: Job, share: int, part: int, found: IndexAccumulator, progress: Progress) -> None:
        """Put a part aside, in place of an earlier state of it. Raises `OSError`."""
        facts = {"job": asdict(job), "progress": asdict(progress), "seed": job.seed}
        write_partial(self.folder / f"share-{share}-of-{job.shares}.{part:04}.safetensors", found, facts)

    def missing(self, job: Job) -> list[int]:
        """The shares that have not been read to their end."""
        return [share for share in range(1, job.shares + 1) if not self.resume(job, share)[0].done]

    def paths(self, job: Job) -> list[Path]:
        """The parts of all shares."""
        return [path for share in range(1, job.shares + 1) for path in self._paths(share, job.shares)]

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self, share: int, shares: int) -> list[Path]:
        return sorted(self.folder.glob(f"share-{share}-of-{shares}.*.safetensors"))


def _facts(path: Path) -> dict[str, Any] | None:
    try:
        return Partial(path).facts
    except DamagedFile:
        return None
