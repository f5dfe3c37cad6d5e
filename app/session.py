"""What one run of the dashboard has open: a model, its SAEs and their indexes, and the worker that runs them."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.jobs import CANCELLED, FAILED, Job, Progress, Worker
from workbench.errors import SettingError, WorkbenchError

if TYPE_CHECKING:
    from saes.firing import Firing
    from saes.index.feature_index import FeatureIndex
    from saes.sae import SAE
    from workbench.attention import AttentionPatterns
    from workbench.heads import HeadScores
    from workbench.lens import LensResult
    from workbench.model import HookedModel

HEADS = "heads"
REMEMBERED = 24
"""Results of the latest so many prompts are kept."""


@dataclass(frozen=True)
class Dictionary:
    """An SAE that is open, and its feature index if it has one."""

    name: str
    directory: Path
    sae: "SAE"
    index: "FeatureIndex | None"
    report: Mapping[str, Any] = field(default_factory=dict)
    """What its training measured at the end, if its directory says."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The whole table of latents, in order of latent; read once."""
        return self.index.table(sort="latent", descending=False, limit=self.index.summary.n_latents).rows


class Session:
    """Everything a page may ask for. Questions run on the worker's thread; their answers are remembered."""

    def __init__(self, source: str, sae_dirs: Sequence[Path] = (), worker: Worker | None = None) -> None:
        self.source = source
        self.sae_dirs = tuple(sae_dirs)
        self.worker = worker or Worker()
        self.model: HookedModel | None = None
        self.dictionaries: tuple[Dictionary, ...] = ()
        self.loading: Job | None = None
        self._answers: dict[Any, Any] = {}
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        return self.model is not None

    def start(self) -> Job:
        """Load the model and its SAEs in the background."""
        self.loading = self.worker.submit(f"Loading {self.source}", self.load)
        return self.loading

    def load(self, progress: Progress) -> None:
        """Import what is heavy, then open the model, then the SAEs."""
        steps = 2 + len(self.sae_dirs)
        progress(0, steps, "importing PyTorch and transformer-lens")
        from workbench.model import load_model

        progress(1, steps, "reading the model")
        model = load_model(self.source)
        dictionaries = []
        for number, (name, directory) in enumerate(named(self.sae_dirs).items()):
            progress(2 + number, steps, f"opening {name}")
            dictionaries.append(open_dictionary(name, directory, model))
        self.dictionaries = tuple(sorted(dictionaries, key=lambda dictionary: _layer_order(dictionary.name)))
        self.model = model
        progress(steps, steps)

    def dictionary(self, name: str) -> Dictionary:
        """The open SAE called `name`, or for no name the first that has an index. `SettingError` if there is none."""
        if not name:
            indexed = [dictionary for dictionary in self.dictionaries if dictionary.index is not None]
            return (indexed or list(self.dictionaries))[0]
        for dictionary in self.dictionaries:
            if dictionary.name == name:
                return dictionary
        known = ", ".join(dictionary.name for dictionary in self.dictionaries)
        raise SettingError(f"no SAE {name!r} is open; there is {known}")

    def attention(self, prompt: str) -> "AttentionPatterns":
        """The pattern of every head on `prompt`."""
        from workbench.attention import attention_patterns

        return self._answer(("attention", prompt), partial(attention_patterns, self.model, prompt))

    def lens(self, prompt: str) -> "LensResult":
        """The logit lens on `prompt`."""
        from workbench.lens import logit_lens

        return self._answer(("lens", prompt), partial(logit_lens, self.model, prompt, k=6))

    def firing(self, dictionary: Dictionary, text: str) -> "Firing":
        """What every latent of an SAE does on `text`."""
        from saes.firing import fire

        return self._answer(("firing", dictionary.name, text), partial(fire, self.model, dictionary.sae, text))

    def head_scores(self) -> "HeadScores | None":
        """The scores of all heads, or None while the job that measures them is at work. `SettingError` if it failed."""
        from workbench.heads import head_scores

        job = self._job(HEADS, "Scoring every head", lambda progress: head_scores(self.model))
        if job.state in (FAILED, CANCELLED):
            why = job.error or "the job was cancelled; reload the page to start it again"
            raise SettingError(f"the heads have no scores: {why}")
        return job.result

    def build_index(self, dictionary: Dictionary) -> Job:
        """Index an SAE that has no index, over the corpus it was trained on."""
        from app.indexing import index_dictionary

        def work(progress: Progress) -> None:
            index = index_dictionary(self.model, dictionary, progress)
            indexed = replace(dictionary, index=index)
            self.dictionaries = tuple(indexed if other is dictionary else other for other in self.dictionaries)

        return self._job(f"index {dictionary.name}", f"Indexing {dictionary.name}", work)

    def renew(self, key: str) -> None:
        """Let the job called `key` start again if it failed or was cancelled."""
        if key in self._jobs and self._jobs[key].state in (FAILED, CANCELLED):
            del self._jobs[key]

    def _job(self, key: str, title: str, work: Callable[[Progress], Any]) -> Job:
        """The job called `key`, started at its first use."""
        with self._lock:
            if key not in self._jobs:
                self._jobs[key] = self.worker.submit(title, work)
            return self._jobs[key]

    def _answer(self, key: Any, question: Callable[[], Any]) -> Any:
        """The remembered answer, or the worker's; asked twice at once, the worker works it out once."""
        if key in self._answers:
            return self._answers[key]
        return self.worker.ask(self._work_out, key, question)

    def _work_out(self, key: Any, question: Callable[[], Any]) -> Any:
        if key not in self._answers:
            answer = question()
            while len(self._answers) >= REMEMBERED:
                del self._answers[next(iter(self._answers))]
            self._answers[key] = answer
        return self._answers[key]


def named(directories: Sequence[Path]) -> dict[str, Path]:
    """Directories by their last names; by their paths where those are not unique."""
    last = Counter(directory.resolve().name for directory in directories)
    names = (d.resolve().name if last[d.resolve().name] == 1 else str(d) for d in directories)
    return dict(zip(names, directories, strict=True))


def open_dictionary(name: str, directory: Path, model: "HookedModel") -> Dictionary:
    """Read an SAE and its index. `SettingError` if it was not made for `model`."""
    from saes.index.feature_index import FeatureIndex
    from saes.route import check_route
    from saes.storage import load_sae
    from workbench.files import read_json

    sae = load_sae(directory)
    try:
        check_route(sae, model)
    except WorkbenchError as error:
        raise SettingError(f"{directory} does not belong to {model.info.name}: {error}") from None
    index = FeatureIndex.open(directory) if (directory / "features").is_dir() else None
    report = read_json(directory / "report.json") if (directory / "report.json").is_file() else {}
    return Dictionary(name, directory, sae, index, report)


def _layer_order(name: str) -> tuple[int, str]:
    """Sort key: by the first number in the name, then by the name."""
    digits = [part for part in name.split(".") if part.isdigit()]
    return (int(digits[0]) if digits else -1, name)
