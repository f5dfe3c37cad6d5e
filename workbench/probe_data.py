"""What probes are trained on: activations with labels, a row a token or a row a text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import sites as site_names
from workbench.activations import harvest, special_ids
from workbench.corpus import Corpus, concept_index
from workbench.errors import SettingError
from workbench.model import HookedModel
from workbench.texts import pooled_activations


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Activations with labels: a row a token, or a row a text. On the CPU, sites × rows × d numbers."""

    activations: dict[str, Float[Tensor, "row _"]]
    labels: Bool[Tensor, "row concept"]
    concepts: tuple[str, ...]
    documents: Int[Tensor, " row"]
    """Rows of one document are never on both sides of a fold."""
    types: Int[Tensor, " row"]
    """What the control task gives a label to: the word that a token is."""
    model: str
    """Fingerprint of the model."""
    source: str

    def only(self, concepts: Sequence[str]) -> "ProbeData":
        """The same rows with these labels only. Raises `SettingError` for a label that there is not."""
        columns = [concept_index(self.source, self.concepts, concept) for concept in concepts]
        return replace(self, labels=self.labels[:, columns], concepts=tuple(concepts))


def token_data(
    model: HookedModel,
    corpus: Corpus,
    sites: str | Sequence[str],
    *,
    n_tokens: int | None = 30_000,
) -> ProbeData:
    """The tokens of a labelled corpus, special ones left out. `n_tokens=None` reads all of a corpus that ends.

    Raises `SettingError` for a corpus without labels, and what `harvest` raises.
    """
    if not corpus.concepts:
        raise SettingError(f"{corpus.name} has no labels to probe for")
    skip, parts = special_ids(model.tokenizer), []
    names = site_names.expand(sites, model.sites)
    for batch in harvest(model, corpus, names, n_tokens=n_tokens):
        keep = batch.mask(skip)
        rows = {site: batch.rows(site, skip).float().cpu() for site in names}
        parts.append((rows, batch.labels[keep], batch.documents[keep], batch.tokens[keep]))
    rows, labels, documents, types = zip(*parts, strict=True)
    return ProbeData(
        activations={site: torch.cat([one[site] for one in rows]) for site in names},
        labels=torch.cat(labels),
        concepts=corpus.concepts,
        documents=torch.cat(documents),
        types=torch.cat(types),
        model=model.fingerprint,
        source=corpus.name,
    )


def text_data(
    model: HookedModel,
    texts: Sequence[str],
    labels: Sequence[str],
    sites: str | Sequence[str],
    *,
    pool: str = "last",
    source: str = "texts",
) -> ProbeData:
    """Whole texts, each read at its last token or as the mean of its tokens; one probe for each label against the rest.

    Of two labels, only the second in the alphabet is probed for: the other is its negation. Raises `SettingError` for
    fewer than two labels.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        raise SettingError(f"probing needs two labels or more; {source} has {len(names)}")
    names = names[1:] if len(names) == 2 else names
    number = torch.arange(len(texts))
    return ProbeData(
        activations=pooled_activations(model, texts, site_names.expand(sites, model.sites), pool=pool),
        labels=torch.tensor([[label == name for name in names] for label in labels]),
        concepts=tuple(names),
        documents=number,
        types=number,
        model=model.fingerprint,
        source=source,
    )
