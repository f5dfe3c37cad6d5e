"""Directions: what sets two kinds of activations apart, as a vector at a site, with where it came from.

All methods share one unit. The vector points from the negative examples to the positive ones, and its length is the
distance between their means along it: adding it once carries the mean of one to the mean of the other, as far as this
direction reaches. Difference of means: contrastive activation addition (Rimsky et al. 2023, arXiv:2312.06681, eq. 1).
Principal component of the differences of pairs: representation engineering (Zou et al. 2023, arXiv:2310.01405, §3.1).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import sites as site_names
from workbench.activations import harvest, special_ids
from workbench.corpus import Corpus, concept_index
from workbench.errors import CorpusError, DamagedFile, ModelError, PromptError, SettingError
from workbench.files import read_metadata, read_records, read_tensors, write_tensors
from workbench.model import HookedModel
from workbench.texts import pooled_activations

FORMAT = "interp-workbench direction 1"

Rows = Float[Tensor, "_ d"]
Vector = Float[Tensor, " d"]


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a site of one model. Prints its provenance in a line."""

    name: str
    """What it points to: a concept, or whatever the positive examples have in common."""
    vector: Float[Tensor, " d"] | Float[Tensor, "pos d"]
    """On the CPU. With one row for each position, they belong to the first positions of a prompt (ActAdd)."""
    site: str
    method: str
    model: str
    """Fingerprint of the model that it was read from."""
    typical_norm: float | None = None
    """Mean length of an activation at the site, to compare doses with; None where no activation was read."""
    start: float = 0.0
    """The mean component of negative examples along the vector, in activation units: where a dose of 0 stands."""
    source: dict[str, Any] = field(default_factory=dict)
    """What it was made from: prompts, or a corpus, and how many examples of each kind. JSON values."""

    def __post_init__(self) -> None:
        if not self.vector.any():
            raise SettingError(f"the direction {self.name!r} is a vector of zeros: its examples do not differ")

    @property
    def norm(self) -> float:
        """Length of the vector (of several, their mean length)."""
        return self.vector.norm(dim=-1).mean().item()

    def __str__(self) -> str:
        share = f", {self.norm / self.typical_norm:.0%} of a typical activation" if self.typical_norm else ""
        return f"{self.name} at {self.site}, by {self.method}: {self.norm:.3g} long{share}"

    def check(self, model: HookedModel) -> None:
        """Raises `ModelError` if this was read from another model."""
        if self.model != model.fingerprint:
            raise ModelError(
                f"the direction {self.name!r} belongs to a model with fingerprint {self.model[:8]}…, not to "
                f"{model.info.name} ({model.fingerprint[:8]}…); make it anew for this model"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with one tensor, and the rest in its metadata."""
        facts = {name: value for name, value in vars(self).items() if name != "vector"}
        write_tensors(path, {"vector": self.vector}, {"format": FORMAT, "direction": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path, model: HookedModel | None = None) -> "Direction":
        """Read what `save` wrote. Raises `DamagedFile` for anything else, `ModelError` if it is not of `model`."""
        tensors, metadata = read_tensors(path), read_metadata(path)
        if metadata.get("format") != FORMAT or set(tensors) != {"vector"}:
            raise DamagedFile(f"{path} holds no direction; `workbench steer --save` writes one")
        try:
            direction = cls(vector=tensors["vector"], **json.loads(metadata["direction"]))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise DamagedFile(f"{path} is a damaged direction ({error})") from None
        if model is not None:
            direction.check(model)
        return direction


def difference_of_means(positive: Rows, negative: Rows) -> Vector:
    """Rimsky et al. 2023, arXiv:2312.06681, eq. 1."""
    return positive.mean(0) - negative.mean(0)


def principal_difference(positive: Rows, negative: Rows) -> Vector:
    """First principal component of the differences of pairs, row i against row i, taken both ways round.

    Both ways, so that they centre on zero and the difference that all pairs share counts (Zou et al. 2023,
    arXiv:2310.01405, §3.1). Of two kinds that are not as many, the larger is thinned out evenly.
    """
    n = min(len(positive), len(negative))
    positive, negative = (rows[torch.linspace(0, len(rows) - 1, n).long()] for rows in (positive, negative))
    differences = (positive - negative).double()
    return torch.linalg.eigh(differences.T @ differences).eigenvectors[:, -1].float()


def logistic_normal(positive: Rows, negative: Rows) -> Vector:
    """Normal of the plane between both kinds, by a class-balanced logistic regression on standardised activations."""
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat([positive, negative]).double()
    spread = rows.std(0).clamp_min(1e-9)
    labels = [1] * len(positive) + [0] * len(negative)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    normal = model.fit(((rows - rows.mean(0)) / spread).numpy(), labels).coef_[0]
    return (torch.from_numpy(normal) / spread).float()


METHODS: dict[str, Callable[[Rows, Rows], Vector]] = {
    "mean": difference_of_means,
    "pca": principal_difference,
    "logistic": logistic_normal,
}


def direction_between(positive: Rows, negative: Rows, method: str = "mean") -> tuple[Vector, float]:
    """A direction in the module's unit, and where it starts: the negatives' mean component along it.

    Raises `SettingError` for an unknown method, or without examples of both kinds.
    """
    if method not in METHODS:
        raise SettingError(f"no method {method!r}; the methods are {', '.join(METHODS)}")
    if not len(positive) or not len(negative):
        raise SettingError("a direction needs examples of both kinds")
    axis = METHODS[method](positive, negative)
    unit = axis / axis.norm().clamp_min(1e-30)
    vector = (difference_of_means(positive, negative) @ unit) * unit
    return vector, (negative.mean(0) @ vector / vector.norm().clamp_min(1e-30)).item()


def contrast_direction(
    model: HookedModel,
    positive: Sequence[str],
    negative: Sequence[str],
    site: str,
    *,
    name: str = "contrast",
    method: str = "mean",
    pool: str = "last",
) -> Direction:
    """The direction between two kinds of texts, each read at its last token or as the mean of its tokens.

    With "pca", text i of one kind is paired with text i of the other. One pair makes the contrast of activation
    addition at the last position; `activation_difference` makes that of all positions.
    """
    rows = pooled_activations(model, [*positive, *negative], [_one_site(model, site)], pool=pool)[site]
    source = {"positive": list(positive), "negative": list(negative), "pool": pool}
    return _between(model, rows[: len(positive)], rows[len(positive) :], site, name, method, source)


def concept_direction(
    model: HookedModel, corpus: Corpus, concept: str, site: str, *, method: str = "mean", n_tokens: int = 50_000
) -> Direction:
    """The direction between the tokens of a labelled corpus that have a concept and those that have not.

    Raises `SettingError` for a concept that the corpus does not label, `CorpusError` if no token read has it.
    """
    number, skip, parts = concept_index(corpus.name, corpus.concepts, concept), special_ids(model.tokenizer), ([], [])
    for batch in harvest(model, corpus, [_one_site(model, site)], n_tokens=n_tokens):
        has = batch.labels[batch.mask(skip)][:, number]
        rows = batch.rows(site, skip).float().cpu()
        parts[0].append(rows[has])
        parts[1].append(rows[~has])
    positive, negative = map(torch.cat, parts)
    if not len(positive) or not len(negative):
        raise CorpusError(f"{concept!r} does not tell any two of the {n_tokens:,} tokens of {corpus.name} apart")
    source = {"corpus": corpus.name, "fingerprint": corpus.fingerprint, "n": [len(positive), len(negative)]}
    return _between(model, positive, negative, site, concept, method, source)


def read_contrasts(path: str | Path) -> tuple[list[str], list[str]]:
    """The texts of a .jsonl or .csv file with the fields `positive` and `negative`. Raises `DamagedFile`."""
    pairs = []
    for number, record in read_records(path):
        pairs.append([record.get(kind) for kind in ("positive", "negative")])
        if not all(isinstance(text, str) for text in pairs[-1]):
            raise DamagedFile(f"{path}, line {number}: each line has a text `positive` and a text `negative`")
    if not pairs:
        raise DamagedFile(f"{path} holds no pairs of texts")
    positive, negative = zip(*pairs, strict=True)
    return list(positive), list(negative)


def _between(
    model: HookedModel, positive: Rows, negative: Rows, site: str, name: str, method: str, source: dict[str, Any]
) -> Direction:
    vector, start = direction_between(positive, negative, method)
    typical = torch.cat([positive, negative]).norm(dim=1).mean().item()
    return Direction(name, vector, site, method, model.fingerprint, typical, start, source)


def activation_difference(model: HookedModel, positive: str, negative: str, site: str) -> Direction:
    """The difference of two prompts' activations at every position: activation addition as Turner et al. do it.

    arXiv:2308.10248, algorithm 1. Row p is added at position p of whatever is steered. Raises `PromptError` unless both
    have the same number of tokens (they pad the shorter with spaces).
    """
    tokens = [model.to_tokens(text) for text in (positive, negative)]
    if tokens[0].shape != tokens[1].shape:
        lengths = " and ".join(str(one.shape[1]) for one in tokens)
        raise PromptError(f"{positive!r} and {negative!r} have {lengths} tokens; make them as many, by spaces")
    site = _one_site(model, site)
    rows = model.run(torch.cat(tokens), capture=[site], stop_after=site)[site].flatten(2).float().cpu()
    source = {"positive": [positive], "negative": [negative]}
    typical = rows.norm(dim=-1).mean().item()
    name = f"{positive} − {negative}"
    return Direction(name, rows[0] - rows[1], site, "actadd", model.fingerprint, typical, source=source)


def _one_site(model: HookedModel, site: str) -> str:
    """The site, checked; raises `UnknownSite`, and `SettingError` for a pattern that names several."""
    found = site_names.expand(site, model.sites)
    if found != (site,):
        raise SettingError(f"a direction belongs to one site; {site} names {len(found)}")
    return site
