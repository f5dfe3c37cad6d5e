"""The tables of a feature index: what was gathered, as Arrow tables ready to be written."""

import duckdb
import numpy as np
import pyarrow as pa
import torch

from saes.index.accumulator import IndexAccumulator
from saes.index.candidates import Candidates
from saes.index.coactivation import Partners
from saes.index.concepts import concept_scores
from saes.index.examples import Selection, select
from saes.index.geometry import logit_effects, neighbours
from saes.index.partials import Parts
from saes.index.quantiles import SHARES, quantiles
from saes.sae import SAE
from workbench.model import HookedModel
from workbench.scale import BANDS, BINS, width

BLOCK = 8_192
"""Latents whose candidates are held at a time."""
N_NEIGHBOURS = 10
N_PARTNERS = 10
N_LOGITS = 10
N_CONCEPTS = 5
"""Concepts listed for each latent; besides, each concept keeps its `N_LATENTS` best latents."""
N_LATENTS = 20


def build_tables(
    parts: Parts, sae: SAE, model: HookedModel, concepts: tuple[str, ...]
) -> tuple[dict[str, pa.Table], int]:
    """The tables by name, and the number of tokens on which co-activation was counted."""
    found = parts.counts
    selection, shares = _selected(parts)
    keys = np.unique(selection.pool.context)
    contexts = parts.contexts(keys)
    partners = found.coactivation.partners(N_PARTNERS)
    tables = {
        "examples": _examples(selection, keys),
        "contexts": _contexts(*contexts),
        "logits": _logits(sae, model),
        "neighbours": _neighbours(sae),
        "coactive": _partners(partners),
        "concepts": _concepts(found, concepts),
    }
    fired = _fired(selection, keys, contexts[0])
    words = np.unique(np.concatenate([contexts[0].flatten(), tables["logits"]["token"].to_numpy()]))
    strings = model.token_strings(words.tolist()) if len(words) else []
    tables["strings"] = pa.table({"token": words.astype(np.int32), "string": pa.array(strings, pa.string())})
    tables["latents"] = _latents(_activity(found, *shares), fired, tables)
    return tables, partners.n_tokens


def _selected(parts: Parts) -> tuple[Selection, tuple[np.ndarray, np.ndarray]]:
    """The examples of all latents, and the quantiles of their activations with how many activations these are from."""
    exponent, d_sae = parts.counts.activity.exponent, parts.counts.d_sae
    spans = [(start, min(start + BLOCK, d_sae)) for start in range(0, d_sae, BLOCK)]
    selections = [select(parts.candidates(*span), exponent) for span in spans]
    shares = [quantiles(parts.values(*span), *span) for span in spans]
    pool = Candidates.concatenate([selection.pool for selection in selections])
    band = np.concatenate([selection.band for selection in selections])
    return Selection(pool, band), tuple(np.concatenate(column) for column in zip(*shares, strict=True))


def _activity(found: IndexAccumulator, shares: np.ndarray, n_sampled: np.ndarray) -> pa.Table:
    activity = found.activity
    n_active = activity.n_active
    return pa.table(
        {
            "latent": np.arange(len(n_active), dtype=np.int32),
            "density": n_active / max(activity.n_tokens, 1),
            "n_active": n_active,
            "maximum": activity.maximum,
            "mean": activity.total / np.maximum(n_active, 1),
            "bin_width": np.where(n_active > 0, width(activity.exponent, BINS), 0.0),
            "histogram": _lists(np.arange(len(n_active) + 1) * BINS, activity.histogram.flatten()),
            "quantiles": _lists(np.append(0, (n_sampled > 0).cumsum()) * len(SHARES), shares[n_sampled > 0].flatten()),
            "n_sampled": n_sampled,
        }
    )


def _examples(selection: Selection, keys: np.ndarray) -> pa.Table:
    pool = selection.pool
    return pa.table(
        {
            "latent": pool.latent,
            "place": _places(pool.latent),
            "band": selection.band.astype(np.int8),
            "context": np.searchsorted(keys, pool.context).astype(np.int32),
            "peak": pool.peak_position.astype(np.int16),
            "positions": _lists(pool.offset, pool.position.astype(np.int16)),
            "activations": _lists(pool.offset, pool.value),
        }
    )


def _fired(selection: Selection, keys: np.ndarray, tokens: np.ndarray) -> pa.Table:
    """Each token on which a latent fires in its top examples, and whether it is the example's peak."""
    top = selection.pool.take(np.flatnonzero(selection.band < 0))
    length = np.diff(top.offset)
    return pa.table(
        {
            "latent": top.latent.repeat(length),
            "token": tokens[np.searchsorted(keys, top.context).repeat(length), top.position],
            "is_peak": top.position == top.peak_position.repeat(length),
        }
    )


def _contexts(tokens: np.ndarray, documents: np.ndarray) -> pa.Table:
    offsets = np.arange(len(tokens) + 1) * tokens.shape[1]
    return pa.table(
        {
            "context": np.arange(len(tokens), dtype=np.int32),
            "tokens": _lists(offsets, tokens.flatten()),
            "documents": _lists(offsets, documents.flatten()),
        }
    )


def _logits(sae: SAE, model: HookedModel) -> pa.Table:
    """Rows 0..N-1 of a latent are its top logits, the rest its bottom ones."""
    effects = logit_effects(sae, model, N_LOGITS)
    tokens, values = effects or (torch.zeros(0, 0), torch.zeros(0, 0))
    latent, place = np.indices(tokens.shape).reshape(2, -1)
    return pa.table(
        {
            "latent": latent.astype(np.int32),
            "place": place.astype(np.int16),
            "is_top": place < tokens.shape[1] // 2,
            "token": tokens.flatten().numpy().astype(np.int32),
            "effect": values.flatten().numpy(),
        }
    )


def _neighbours(sae: SAE) -> pa.Table:
    other, cosine = neighbours(sae.W_dec, N_NEIGHBOURS)
    latent, place = np.indices(other.shape).reshape(2, -1)
    return pa.table(
        {
            "latent": latent.astype(np.int32),
            "place": place.astype(np.int16),
            "other": other.flatten().numpy().astype(np.int32),
            "cosine": cosine.flatten().numpy(),
        }
    )


def _partners(partners: Partners) -> pa.Table:
    columns = {name: getattr(partners, name) for name in ("latent", "other", "together", "phi", "jaccard")}
    return pa.table({"place": _places(partners.latent), **columns})


def _concepts(found: IndexAccumulator, concepts: tuple[str, ...]) -> pa.Table:
    """The best concepts of each latent and the best latents of each concept; `place` 0 is the latent's best."""
    at_zero, best = concept_scores(found.concepts, found.activity.bands)
    place = (-best.f1).argsort(1, kind="stable").argsort(1)
    standing = (-best.f1).argsort(0, kind="stable").argsort(0)
    latent, concept = np.nonzero((best.f1 > 0) & ((place < N_CONCEPTS) | (standing < N_LATENTS)))
    cells = latent, concept
    return pa.table(
        {
            "latent": latent.astype(np.int32),
            "concept": pa.array([concepts[i] for i in concept], pa.string()),
            "place": place[cells].astype(np.int16),
            "threshold": best.band[cells] * width(found.activity.exponent[latent], BANDS),
            "precision": best.precision[cells],
            "recall": best.recall[cells],
            "f1": best.f1[cells],
            "f1_at_zero": at_zero.f1[cells],
        }
    )


_LATENTS = """
WITH peaks AS (
    SELECT latent, list(string ORDER BY n DESC, string)[:5] AS peaks
    FROM (SELECT latent, token, count(*) AS n FROM fired WHERE is_peak GROUP BY latent, token)
         JOIN strings USING (token)
    GROUP BY latent
), promoted AS (
    SELECT latent, list(string ORDER BY effect DESC, token)[:5] AS promotes
    FROM logits JOIN strings USING (token) WHERE is_top GROUP BY latent
), words AS (
    SELECT latent, string FROM fired JOIN strings USING (token)
    UNION SELECT latent, string FROM logits JOIN strings USING (token) WHERE is_top
    UNION SELECT latent, concept FROM concepts
), searched AS (
    SELECT latent, lower(string_agg(string, chr(10) ORDER BY string)) AS search FROM words GROUP BY latent
)
SELECT activity.*, concept, f1, coalesce(peaks, []) AS peaks, coalesce(promotes, []) AS promotes,
       coalesce(search, '') AS search
FROM activity LEFT JOIN peaks USING (latent) LEFT JOIN promoted USING (latent) LEFT JOIN searched USING (latent)
     LEFT JOIN (SELECT latent, concept, f1 FROM concepts WHERE place = 0) USING (latent)
ORDER BY latent
"""


def _latents(activity: pa.Table, fired: pa.Table, tables: dict[str, pa.Table]) -> pa.Table:
    """One row for each latent, with the words that a search should find it by: one a line, in lower case."""
    with duckdb.connect() as db:
        for name, table in {"activity": activity, "fired": fired, **tables}.items():
            db.register(name, table)
        return db.sql(_LATENTS).to_arrow_table()


def _places(latent: np.ndarray) -> np.ndarray:
    """0, 1, 2… for the rows of each latent, which lie together."""
    return (np.arange(len(latent)) - np.searchsorted(latent, latent)).astype(np.int16)


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
