"""A labelled corpus as an SAE sees it: one pass, whose first half chooses and whose second half measures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.judging.completeness import Completeness, ErrorProbes
from saes.judging.concepts import ConceptJudge, ConceptReport
from saes.route import check_route, rows_at
from saes.sae import SAE
from workbench.activations import harvest, special_ids
from workbench.corpus import Corpus
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel

Rows = tuple[Float[Tensor, "row width"], Bool[Tensor, "row concept"]]
"""Rows such as the SAE was trained on, and their labels."""


@dataclass(frozen=True)
class Labelled:
    """What a pass over labels tells of an SAE."""

    concepts: ConceptReport
    completeness: Completeness


@torch.no_grad()
def judge_labelled(
    sae: SAE,
    choosing: Iterator[Rows],
    measuring: Iterator[Rows],
    concepts: tuple[str, ...],
) -> Labelled:
    """Judge an SAE on rows with known concepts. Everything chosen (latents, thresholds, probes) is chosen on
    `choosing`; every figure is measured on `measuring`, so that none is flattered by the choice.

    One pass over each; memory does not grow with their length: d_sae x 8 x concepts counts, and d_out^2 moments.
    Raises `CorpusError` if either holds no rows.
    """
    judge = ConceptJudge(sae.W_dec.detach().float(), concepts)
    probes = ErrorProbes(sae.W_dec.shape[1], concepts)
    for half, rows in enumerate((choosing, measuring)):
        n = 0
        for row, labels in rows:
            x, target = sae.split(row)
            _, active = sae.code(x)
            latents = active.to_dense()
            probes.add(half, target, sae.reconstruct(x, active), labels)
            (judge.choose, judge.measure)[half](latents, labels)
            n += len(x)
        if not n:
            raise CorpusError("there are too few labelled tokens to choose on one half and measure on the other")
    return Labelled(judge.report(), probes.report())


def judge_corpus(
    sae: SAE,
    model: HookedModel,
    corpus: Corpus,
    n_tokens: int,
    on_progress: Callable[[int], None] | None = None,
) -> Labelled:
    """`judge_labelled` on the first `n_tokens` text tokens of a labelled corpus, half and half (whole batches).

    Raises `SettingError` if the corpus has no labels, or the SAE does not fit the model.
    """
    check_route(sae, model)
    if not corpus.concepts:
        raise SettingError(f"{corpus.name} has no concept labels")
    done = 0

    def until(target: int) -> Iterator[Rows]:
        nonlocal done
        while done < target and (rows := next(stream, None)) is not None:
            done += len(rows[0])
            yield rows
            if on_progress:
                on_progress(min(done, n_tokens))

    stream = _rows(sae, model, corpus)
    return judge_labelled(sae, until(n_tokens // 2), until(n_tokens), corpus.concepts)


def _rows(sae: SAE, model: HookedModel, corpus: Corpus) -> Iterator[Rows]:
    skip = special_ids(model.tokenizer)
    for batch in harvest(model, corpus, sae.route.sites, batch_size=16):
        keep = batch.mask(skip)
        rows = rows_at(sae, sae.route.sites, batch.activations, keep.to(model.device)).float()
        if len(rows):
            yield rows, batch.labels[keep].to(rows.device)
