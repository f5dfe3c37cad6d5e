"""What one run of the dashboard has open: a model, its SAEs and their indexes, and the worker that runs them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.jobs import FAILED, Job, Progress, Worker
from workbench.errors import SettingError

if TYPE_CHECKING:
    from app.live import Firing
    from circuits.heads import HeadScores
    from saes.index.feature_index import FeatureIndex
    from saes.sae import SAE
    from workbench.attention import AttentionPatterns
    from workbench.lens import LensResult
    from workbench.model import HookedModel

REMEMBERED = 24
"""Results of the latest so many prompts are kept."""


@dataclass(frozen=True)
class Dictionary:
    """An SAE that is open, and its feature index if it has one."""

    name: str
    directory: Path
    sae: "SAE"
    index: "FeatureIndex | None"

    def row(self, latent: int) -> dict[str, Any]:
        """The line of the table of latents that is about `latent`."""
        return self.index.table(sort="latent", descending=False, limit=1, offset=latent).rows[0]


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
        for number, directory in enumerate(self.sae_dirs):
            progress(2 + number, steps, f"opening {directory.name}")
            dictionaries.append(open_dictionary(directory, model))
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
        from app.live import fire

        return self._answer(("firing", dictionary.name, text), partial(fire, self.model, dictionary.sae, text))

    def densities(self, dictionary: Dictionary) -> list[float]:
        """The density of every latent."""
        key = ("densities", dictionary.directory)
        if key not in self._answers:
            index = dictionary.index
            rows = index.table(sort="latent", descending=False, limit=index.summary.n_latents).rows
            self._answers[key] = [row["density"] for row in rows]
        return self._answers[key]

    def head_scores(self) -> "HeadScores | None":
        """The scores of all heads, or None while the job that measures them is still at work."""
        from circuits.heads import head_scores

        job = self._job("heads", "Scoring every head", lambda progress: head_scores(self.model))
        return job.result

    def build_index(self, dictionary: Dictionary) -> Job:
        """Index an SAE that has no index, over the corpus it was trained on."""
        from app.indexing import index_dictionary

        def work(progress: Progress) -> None:
            index = index_dictionary(self.model, dictionary, progress)
            indexed = Dictionary(dictionary.name, dictionary.directory, dictionary.sae, index)
            self.dictionaries = tuple(indexed if other is dictionary else other for other in self.dictionaries)

        return self._job(f"index {dictionary.name}", f"Indexing {dictionary.name}", work)

    def _job(self, key: str, title: str, work: Callable[[Progress], Any]) -> Job:
        """The job called `key`, started at its first use and again after it was cancelled."""
        job = self._jobs.get(key)
        if job is None or not (job.active or job.state in ("done", FAILED)):
            job = self._jobs[key] = self.worker.submit(title, work)
        return job

    def _answer(self, key: Any, question: Callable[[], Any]) -> Any:
        if key not in self._answers:
            answer = self.worker.ask(question)
            while len(self._answers) >= REMEMBERED:
                self._answers.pop(next(iter(self._answers)), None)
            self._answers[key] = answer
        return self._answers[key]


def open_dictionary(directory: Path, model: "HookedModel") -> Dictionary:
    """Read an SAE and its index. `SettingError` if it was not made for `model`."""
    from saes.index.feature_index import FeatureIndex
    from saes.storage import load_sae

    sae = load_sae(directory)
    if sae.site not in model.sites:
        raise SettingError(
            f"{directory} is an SAE for {sae.site or 'no named site'}, which {model.info.name} does not have"
        )
    if sae.cfg.d_in != model.info.d_model:
        width = model.info.d_model
        raise SettingError(f"{directory} reads {sae.cfg.d_in} numbers a token, but {model.info.name} has {width}")
    index = FeatureIndex.open(directory) if (directory / "features").is_dir() else None
    return Dictionary(directory.name, directory, sae, index)


def _layer_order(name: str) -> tuple[int, str]:
    """Sort key: by the first number in the name, then by the name."""
    digits = [part for part in name.split(".") if part.isdigit()]
    return (int(digits[0]) if digits else -1, name)
