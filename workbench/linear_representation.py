"""Is a concept a direction? Analogies by arithmetic, and whether a direction holds from one kind of text to another.

(That adding a direction changes what the model does is for `workbench.dose` to show, that nothing linear is left once
it is taken out, for `workbench.erasure`.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.directions import direction_between
from workbench.errors import PromptError, SettingError
from workbench.model import HookedModel
from workbench.probe_data import ProbeData
from workbench.probing import FOLDS, auroc, fold_of
from workbench.sites import expand


@dataclass(frozen=True, eq=False)
class Analogies:
    """How often b − a + c is nearest to d, for every two pairs (a, b) and (c, d). Prints a line for each space.

    The words a, b and c themselves are no answers, as usual; without that, c would nearly always be nearest. `nearest`
    is what that leaves to be seen: how often d is already nearest to c, with no arithmetic at all (Linzen 2016,
    arXiv:1606.07736; Rogers et al. 2017).
    """

    spaces: tuple[str, ...]
    """"W_E", "W_U", or sites."""
    n_analogies: int
    n_candidates: int
    accuracy: Float[Tensor, " space"]
    nearest: Float[Tensor, " space"]
    consistency: Float[Tensor, " space"]
    """Mean cosine of the offsets b − a of two pairs: 1 if all are one direction, near 0 if they have none in common."""

    def __str__(self) -> str:
        lines = [f"{self.n_analogies:,} analogies a is to b as c is to d, {self.n_candidates:,} candidates"]
        lines += ["  b − a + c   c alone   cosine of offsets"]
        for row, space in enumerate(self.spaces):
            cells = f"{self.accuracy[row]:>11.1%}   {self.nearest[row]:>7.1%}   {self.consistency[row]:>17.2f}"
            lines.append(f"{cells}  {space}")
        return "\n".join(lines)


def analogies(
    model: HookedModel,
    pairs: Sequence[tuple[str, str]],
    spaces: Sequence[str] = ("W_E", "W_U", "blocks.*.hook_resid_post"),
    *,
    candidates: Sequence[str] = (),
) -> Analogies:
    """Analogies between all pairs of words, in embeddings (`W_E`), unembeddings (`W_U`) and activations.

    Nearness is the cosine. A word is one token; its activation at a site is that of `<bos> word`, if the model has a
    BOS. Answers are looked for among all words of `pairs` and `candidates`. Raises `SettingError` for fewer than two
    pairs, `PromptError` for a word that is not one token.
    """
    if len(pairs) < 2:
        raise SettingError(f"an analogy needs two pairs of words or more, not {len(pairs)}")
    words = list(dict.fromkeys([*(word for pair in pairs for word in pair), *candidates]))
    number = {word: row for row, word in enumerate(words)}
    index = torch.tensor([[number[a], number[b]] for a, b in pairs])
    vectors = _word_vectors(model, words, spaces)
    found = [_analogies(rows, index) for rows in vectors.values()]
    accuracy, nearest, consistency = (torch.stack(column) for column in zip(*found, strict=True))
    return Analogies(tuple(vectors), len(pairs) * (len(pairs) - 1), len(words), accuracy, nearest, consistency)


def _word_vectors(model: HookedModel, words: list[str], spaces: Sequence[str]) -> dict[str, Float[Tensor, "word _"]]:
    for word in words:
        if (n := model.to_tokens(word, prepend_bos=False).shape[1]) != 1:
            raise PromptError(f"{word!r} is {n} tokens; analogies are between words of one token")
    tokens, vectors = model.to_tokens(words, prepend_bos=False)[:, 0], {}
    sites = [space for space in spaces if space not in ("W_E", "W_U")]
    run = model.run(model.to_tokens(words), capture=sites)
    for space in spaces:
        if space == "W_E":
            vectors[space] = model.W_E[tokens]
        elif space == "W_U":
            vectors[space] = model.W_U.T[tokens]
        else:
            vectors |= {site: run[site][:, -1].flatten(1) for site in expand(space, model.sites)}
    return {space: rows.float().cpu() for space, rows in vectors.items()}


def _analogies(rows: Float[Tensor, "word d"], pairs: Int[Tensor, "pair 2"]) -> tuple[Tensor, Tensor, Tensor]:
    """Accuracy with the arithmetic and without, and the mean cosine of two offsets."""
    n = len(pairs)
    first, second = rows[pairs[:, 0]], rows[pairs[:, 1]]
    offset = torch.nn.functional.normalize(second - first, dim=1)
    consistency = ((offset @ offset.T).sum() - n) / (n * (n - 1))
    a, c = (~torch.eye(n, dtype=torch.bool)).nonzero().T
    asked = torch.stack([pairs[a, 0], pairs[a, 1], pairs[c, 0]], dim=1)
    unit = torch.nn.functional.normalize(rows, dim=1)

    def right(query: Tensor) -> Tensor:
        scores = query @ unit.T
        scores.scatter_(1, asked, -torch.inf)
        return (scores.argmax(1) == pairs[c, 1]).float().mean()

    return right(second[a] - first[a] + first[c]), right(first[c]), consistency


@dataclass(frozen=True, eq=False)
class Transfer:
    """How well a direction found in one group of texts tells labels apart in another. Prints a table for each site.

    1: it holds there as well; 0.5: it says nothing there; 0: it says the opposite.
    """

    sites: tuple[str, ...]
    groups: tuple[str, ...]
    auroc: Float[Tensor, "site found tried"]
    """Where a group is tried on itself, on documents that the direction was not found in."""

    def __str__(self) -> str:
        width = max(map(len, (*self.groups, "found in")))
        lines = ["AUROC of a direction found in one group (row) and tried on another (column)"]
        for site, table in zip(self.sites, self.auroc.tolist(), strict=True):
            lines += ["", site, "  " + " ".join(f"{name:>{width}}" for name in ("found in", *self.groups))]
            for name, row in zip(self.groups, table, strict=True):
                lines.append("  " + " ".join([f"{name:>{width}}", *(f"{value:>{width}.3f}" for value in row)]))
        return "\n".join(lines)


def transfer(groups: Mapping[str, ProbeData], *, method: str = "mean", folds: int = FOLDS, seed: int = 0) -> Transfer:
    """Find a direction in each group, try it on every group (Marks & Tegmark 2023, arXiv:2310.06824, fig. 5).

    Every group has one concept, the same sites, and rows of both kinds. `seed` divides the documents of a group that a
    direction is tried on where it was found. Raises `SettingError` if the groups do not fit each other.
    """
    first = next(iter(groups.values()), None)
    if first is None or any(
        len(data.concepts) != 1 or list(data.activations) != list(first.activations) for data in groups.values()
    ):
        raise SettingError("a direction is carried over between groups of one concept each, at the same sites")
    tables = [
        torch.stack(
            [
                torch.stack([_tried(found, tried, site, method, folds, seed) for tried in groups.values()])
                for found in groups.values()
            ]
        )
        for site in first.activations
    ]
    return Transfer(tuple(first.activations), tuple(groups), torch.stack(tables))


def _tried(found: ProbeData, tried: ProbeData, site: str, method: str, folds: int, seed: int) -> Float[Tensor, ""]:
    fold = fold_of(found.documents, folds, seed) if found is tried else torch.zeros(len(tried.labels), dtype=torch.long)
    scores = torch.empty(len(tried.labels))
    for number in fold.unique():
        rows, labels = found.activations[site], found.labels[:, 0]
        if found is tried:
            rows, labels = rows[fold != number], labels[fold != number]
        vector, _ = direction_between(rows[labels], rows[~labels], method)
        scores[fold == number] = tried.activations[site][fold == number] @ vector
    return auroc(scores.double()[:, None], tried.labels)[0].float()
