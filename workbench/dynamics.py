"""Training dynamics: the same analyses over a sequence of checkpoints, in which circuits can be seen to form.

One checkpoint is in memory at a time. Results are kept as JSON lines, one a checkpoint, so that a study that was broken
off, or has grown by a checkpoint, measures only what is missing.
"""

import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.checkpoint_study import CheckpointStudy
from workbench.corpus import open_corpus
from workbench.errors import DamagedFile, SettingError
from workbench.heads import KINDS, head_scores
from workbench.in_context import in_context
from workbench.metrics_log import MetricsLog, read_log
from workbench.model import HookedModel, load_model
from workbench.prompts import PromptPairs, read_pairs
from workbench.tinytown.evaluation import score
from workbench.tinytown.language import Language
from workbench.tinytown.tasks import TASKS, task_prompts


@dataclass(frozen=True)
class Snapshot:
    """What was measured of one checkpoint. Losses in nats a token."""

    name: str
    at: int
    """The number in its name: how far the training was."""
    loss: float
    """On the corpus."""
    in_context: float
    """In-context learning score."""
    in_context_margin: float
    """Half-width of its 95% interval."""
    first_loss: float
    """On random tokens, the first time."""
    second_loss: float
    """On the same tokens, repeated."""
    previous_token: list[list[float]]
    """Scores of heads, [layer][head]."""
    duplicate_token: list[list[float]]
    induction: list[list[float]]
    tasks: dict[str, float]
    """Accuracy by task."""


@dataclass(frozen=True)
class Rise:
    """Between which checkpoints a curve went from 10% to 90% of its way."""

    begin: int
    end: int


@dataclass(frozen=True)
class Dynamics:
    """The snapshots of a sequence of checkpoints, in order."""

    study: CheckpointStudy
    unit: str
    """What the numbers of the checkpoints count, as their names say: "tokens", "steps", or "checkpoint"."""
    snapshots: tuple[Snapshot, ...]

    @property
    def at(self) -> list[int]:
        return [snapshot.at for snapshot in self.snapshots]

    def curve(self, name: str) -> Float[Tensor, " checkpoint"]:
        """A number of each snapshot: "loss", "in_context", …, or a score, "induction" say, of the head best at it."""
        if name in KINDS:
            return self.heads(name).flatten(1).amax(1)
        return torch.tensor([getattr(snapshot, name) for snapshot in self.snapshots])

    def task(self, name: str) -> Float[Tensor, " checkpoint"]:
        """The accuracy at a task."""
        return torch.tensor([snapshot.tasks[name] for snapshot in self.snapshots])

    def heads(self, kind: str) -> Float[Tensor, "checkpoint layer head"]:
        """One kind of score of every head."""
        return torch.tensor([getattr(snapshot, kind) for snapshot in self.snapshots])

    def rise(self, name: str) -> Rise | None:
        """Between which checkpoints a curve changed; None if it did not, or there are less than three."""
        return rise(self.at, self.curve(name))

    def __str__(self) -> str:
        names = ("loss", "in_context", "second_loss", *KINDS)
        titles = [
            *(name.replace("_", " ") for name in names),
            *(f"task {Path(name).stem}" for name in self.study.tasks),
        ]
        curves = [*map(self.curve, names), *map(self.task, self.study.tasks)]
        widths = [max(8, len(title)) + 2 for title in titles]
        lines = [f"{self.unit:>12}" + "".join(f"{title:>{width}}" for title, width in zip(titles, widths, strict=True))]
        for row, snapshot in enumerate(self.snapshots):
            values = zip(curves, widths, strict=True)
            lines.append(f"{snapshot.at:>12,}" + "".join(f"{curve[row]:>{width}.3f}" for curve, width in values))
        for name in ("previous_token", "induction", "in_context"):
            if change := self.rise(name):
                what = f"The best head's {name.replace('_', '-')} score" if name in KINDS else "In-context learning"
                lines.append(f"{what} changes between {change.begin:,} and {change.end:,} {self.unit}")
        return "\n".join(lines)


def rise(at: Sequence[int], values: Float[Tensor, " checkpoint"]) -> Rise | None:
    """Where a curve went from 10% to 90% of the way between its first value and the one farthest from it.

    From the last checkpoint before which it had not left the first tenth, to the first after which it was within the
    last. None for less than three checkpoints, and for a curve that does not change.
    """
    way = values - values[0]
    total = way.abs().max()
    if len(values) < 3 or total == 0:
        return None
    share = way / way[way.abs().argmax()]
    end = int((share >= 0.9).nonzero()[0])
    begin = int((share[:end] <= 0.1).nonzero()[-1])
    return Rise(at[begin], at[end])


@dataclass(frozen=True)
class Place:
    """A checkpoint on disk."""

    path: Path
    at: int
    unit: str


def find_checkpoints(patterns: Sequence[str]) -> list[Place]:
    """The model directories that patterns name, in the order of the last number in their names.

    Raises `SettingError` if there are none, or if a name has no number or one that another has.
    """
    found = {Path(name) for pattern in patterns for name in glob.glob(str(Path(pattern).expanduser()))}
    paths = [path for path in found if (path / "config.json").is_file()]
    if not paths:
        raise SettingError(f"no model directory at {' '.join(patterns)}; each checkpoint is a Hugging Face directory")
    places: dict[int, Place] = {}
    for path in sorted(paths):
        numbers = re.findall(r"\d+", path.name)
        if not numbers:
            raise SettingError(f"{path}: the name of a checkpoint says how far the training was, as step-1000 does")
        place = Place(path, int(numbers[-1]), _unit(path.name))
        if place.at in places:
            raise SettingError(f"{places[place.at].path} and {path} have the same number")
        places[place.at] = place
    return [places[at] for at in sorted(places)]


def _unit(name: str) -> str:
    return next((f"{word}s" for word in ("token", "step") if word in name), "checkpoint")


def dynamics(
    patterns: Sequence[str],
    study: CheckpointStudy,
    *,
    log: str | Path | None = None,
    on_snapshot: Callable[[int, int, Snapshot], None] | None = None,
) -> Dynamics:
    """Measure every checkpoint, or read in the log what was measured of it before.

    `log`: a file of JSON lines to which each snapshot is added as it is made. A line counts again only for the same
    study and the same weights. `on_snapshot` is called with (number done, number of all, snapshot).
    Raises `SettingError`, and what reading models and corpora raises.
    """
    for task in study.tasks:
        if task not in TASKS and not Path(task).is_file():
            raise SettingError(f"{task!r} is neither a file of prompt pairs nor a task: {', '.join(TASKS)}")
    places = find_checkpoints(patterns)
    known = {record["key"]: record for record in read_log(log) if "key" in record} if log else {}
    snapshots = []
    for number, place in enumerate(places, start=1):
        key = _key(place.path, study)
        snapshots.append(_known(known[key], log) if key in known else _snapshot(place, study))
        if log and key not in known:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
            with MetricsLog(log) as file:
                file.write({"key": key, **asdict(snapshots[-1])})
        if on_snapshot:
            on_snapshot(number, len(places), snapshots[-1])
    units = {place.unit for place in places}
    return Dynamics(study, units.pop() if len(units) == 1 else "checkpoint", tuple(snapshots))


def _key(path: Path, study: CheckpointStudy) -> str:
    """A hash of what a snapshot depends on: study and its files, the checkpoint's name and files."""
    digest = hashlib.blake2b(json.dumps([path.name, asdict(study)]).encode(), digest_size=16)
    files = [Path(name) for name in (study.corpus, *study.tasks) if Path(name).is_file()]
    for file in (*files, *sorted(path.glob("*.json")), *sorted(path.glob("*.safetensors"))):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "blake2b").digest())
    return digest.hexdigest()


def _known(record: dict, log: str | Path) -> Snapshot:
    try:
        values = {name: torch.nan if value is None else value for name, value in record.items() if name != "key"}
        return Snapshot(**values)
    except TypeError:
        raise DamagedFile(f"{log} is not the log of such a study; choose another") from None


def _snapshot(place: Place, study: CheckpointStudy) -> Snapshot:
    model = load_model(place.path)
    context = min(model.info.n_ctx, 512) if study.context is None else study.context
    corpus = open_corpus(study.corpus, model.tokenizer, context=context, seed=study.seed)
    learning = in_context(model, corpus, contexts=study.contexts)
    heads = head_scores(model, batch=study.sequences, seed=study.seed)
    return Snapshot(
        name=place.path.name,
        at=place.at,
        loss=learning.mean_loss,
        in_context=learning.score,
        in_context_margin=learning.score_margin,
        first_loss=heads.first_loss,
        second_loss=heads.second_loss,
        **{kind: getattr(heads, kind).tolist() for kind in KINDS},
        tasks={name: score(model, list(_task(model, name, study))).accuracy for name in study.tasks},
    )


def _task(model: HookedModel, name: str, study: CheckpointStudy) -> Iterator[PromptPairs]:
    if name not in TASKS:
        yield from read_pairs(name, model)
        return
    language = Language()
    if model.tokenizer is None or model.tokenizer.get_vocab() != language.ids:
        raise SettingError(f"{model.info.name} has not Tinytown's vocabulary, so that task {name} is not for it")
    yield from task_prompts(name, study.examples, seed=study.seed, language=language)
