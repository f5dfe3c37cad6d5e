"""Every statistic against brute force on the dense activations, read whole, in pieces, backwards, and merged."""

from fractions import Fraction

import numpy as np
import pytest

from saes.index import coactivation, examples
from saes.index.accumulator import IndexAccumulator
from saes.index.concepts import concept_scores
from saes.index.exact_sum import ExactSum
from saes.index.examples import WINDOW, Selection, select
from tests.saes.index.streams import CONCEPTS, D_SAE, POS, Stream, accumulate, random_stream
from workbench.hashing import hash_contexts, mix
from workbench.scale import BANDS, BINS, SILENT

PIECES = [slice(start, start + 7) for start in range(0, 60, 7)]


def merged(stream: Stream) -> IndexAccumulator:
    first, second = accumulate(stream, *PIECES[:4]), accumulate(stream, *PIECES[4:])
    second.merge(first)
    return second


READINGS = {
    "whole": lambda stream: accumulate(stream),
    "pieces": lambda stream: accumulate(stream, *PIECES),
    "backwards": lambda stream: accumulate(stream, *reversed(PIECES)),
    "merged": merged,
}


@pytest.fixture(scope="module")
def stream() -> Stream:
    return random_stream()


@pytest.fixture(params=READINGS)
def found(request: pytest.FixtureRequest, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> IndexAccumulator:
    monkeypatch.setattr(examples, "PENDING", 50)
    return READINGS[request.param](stream)


def selection(found: IndexAccumulator) -> Selection:
    return select(found.examples.compact(found.activity.exponent), found.activity.exponent)


def test_density_maximum_and_mean(stream: Stream, found: IndexAccumulator):
    rows = stream.dense[stream.counted].astype(np.float64)
    activity = found.activity
    assert activity.n_tokens == len(rows)
    np.testing.assert_array_equal(activity.n_active, (rows > 0).sum(0))
    np.testing.assert_array_equal(activity.maximum, rows.max(0))
    np.testing.assert_allclose(activity.total, rows.sum(0), rtol=1e-12)


def test_histogram_is_that_of_fixed_edges(stream: Stream, found: IndexAccumulator):
    rows = stream.dense[stream.counted].astype(np.float64)
    for latent in range(D_SAE - 1):
        top = 2.0 ** np.ceil(np.log2(rows[:, latent].max()))
        active = rows[:, latent][rows[:, latent] > 0]
        for counts, n in ((found.activity.histogram, BINS), (found.activity.bands, BANDS)):
            np.testing.assert_array_equal(counts[latent], np.histogram(active, n, range=(0, top))[0])
    assert found.activity.exponent[-1] == SILENT
    assert not found.activity.histogram[-1].any()


def test_concept_scores(stream: Stream, found: IndexAccumulator):
    rows, labels = stream.dense[stream.counted], stream.labels[stream.counted]
    at_zero, best = concept_scores(found.concepts, found.activity.bands)
    np.testing.assert_array_equal(found.concepts.n_tokens, labels.sum(0))
    for latent in range(D_SAE - 1):
        width = 2.0 ** found.activity.exponent[latent] / BANDS
        for concept in range(CONCEPTS):
            tried = []
            for band in range(BANDS):
                fires = rows[:, latent] >= band * width if band else rows[:, latent] > 0
                hits = (fires & labels[:, concept]).sum()
                precision = hits / fires.sum() if fires.any() else 0.0
                recall = hits / labels[:, concept].sum()
                f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
                tried.append((f1, -band, precision, recall))
            f1, band, precision, recall = max(tried)
            cell = latent, concept
            assert at_zero.f1[cell] == pytest.approx(tried[0][0])
            assert best.f1[cell] == pytest.approx(f1)
            assert best.band[cell] == -band
            assert best.precision[cell] == pytest.approx(precision)
            assert best.recall[cell] == pytest.approx(recall)
    assert not best.f1[-1].any()


def test_coactivation(stream: Stream, found: IndexAccumulator):
    fires = (stream.dense[stream.counted] > 0).astype(float)
    partners = found.coactivation.partners(4)
    assert partners.n_tokens == len(fires)
    alive = np.flatnonzero(fires.any(0))
    phi = np.full((D_SAE, D_SAE), -np.inf)
    phi[np.ix_(alive, alive)] = np.corrcoef(fires[:, alive].T)
    np.fill_diagonal(phi, -np.inf)
    phi[(fires.T @ fires) == 0] = -np.inf
    for latent in range(D_SAE):
        mine = partners.latent == latent
        expected = [j for j in np.argsort(-phi[latent], kind="stable")[:4] if phi[latent, j] > 0]
        assert partners.other[mine].tolist() == expected
        np.testing.assert_allclose(partners.phi[mine], phi[latent, expected], rtol=1e-9)
        both = (fires.T @ fires)[latent, expected]
        np.testing.assert_array_equal(partners.together[mine], both)
        either = np.array([np.maximum(fires[:, latent], fires[:, j]).sum() for j in expected])
        np.testing.assert_allclose(partners.jaccard[mine], both / either)


@pytest.mark.parametrize("reading", READINGS)
def test_coactivation_beyond_the_budget_is_a_sample_that_no_order_changes(
    stream: Stream, reading: str, monkeypatch: pytest.MonkeyPatch
):
    whole = (stream.dense[stream.counted] > 0).sum(1)
    budget = int((whole**2).sum()) // 5
    monkeypatch.setattr(coactivation, "PAIR_BUDGET", budget)
    sampled = READINGS[reading](stream).coactivation
    assert sampled.pairs <= budget
    key = mix(hash_contexts(stream.tokens)[:, None] + np.arange(POS, dtype=np.uint64))[stream.counted]
    squares = whole.astype(np.int64) ** 2
    halvings = next(h for h in range(64) if squares[key < 2 ** (64 - h) - 1].sum() <= budget)
    keep = key < 2 ** (64 - halvings) - 1
    assert sampled.halvings == halvings
    assert sampled.partners(3).n_tokens == keep.sum() > 20
    fires = (stream.dense[stream.counted] > 0)[keep].astype(int)
    partners = sampled.partners(3)
    np.testing.assert_array_equal(partners.together, (fires.T @ fires)[partners.latent, partners.other])


def brute_examples(stream: Stream, latent: int) -> dict[int, list[tuple[int, int]]]:
    """By band (-1: top): (context, position of the peak), from a loop over contexts."""
    hashes = hash_contexts(stream.tokens)
    salt = mix(np.zeros(1, dtype=np.uint64))
    peaks = []
    for context in np.flatnonzero(stream.dense[:, :, latent].any(1)):
        at = int(stream.dense[context, :, latent].argmax())
        key = int(mix(mix(hashes[[context]] ^ salt) ^ np.array([latent], dtype=np.uint64))[0])
        window = tuple(stream.tokens[context, max(0, at - WINDOW + 1) : at + 1].tolist())
        peaks.append((float(stream.dense[context, at, latent]), key, window, int(context), at))

    def best(candidates: list, n: int, rank) -> list:
        seen, kept = set(), []
        for peak in sorted(candidates, key=rank):
            if peak[2] not in seen and len(kept) < n:
                seen.add(peak[2])
                kept.append(peak)
        return kept

    width = 2.0 ** np.ceil(np.log2(max(peak[0] for peak in peaks))) / BANDS
    top = best(peaks, examples.N_TOP, lambda peak: (-peak[0], peak[1]))
    groups = {-1: top}
    for band in range(BANDS):
        inside = [peak for peak in peaks if band * width <= peak[0] < (band + 1) * width]
        sampled = best(inside, examples.N_PER_BAND, lambda peak: peak[1])
        groups[band] = [peak for peak in sampled if peak not in top]
    return {band: [(peak[3], peak[4]) for peak in group] for band, group in groups.items()}


def test_examples(stream: Stream, found: IndexAccumulator, monkeypatch: pytest.MonkeyPatch):
    chosen = selection(found)
    pool = chosen.pool
    context_of = {key: row for row, key in enumerate(hash_contexts(stream.tokens).tolist())}
    for latent in range(D_SAE - 1):
        for band, expected in brute_examples(stream, latent).items():
            rows = np.flatnonzero((pool.latent == latent) & (chosen.band == band))
            got = [(context_of[int(pool.context[row])], int(pool.peak_position[row])) for row in rows]
            assert got == expected, (latent, band)
            for row, (context, at) in zip(rows, expected, strict=True):
                entries = slice(pool.offset[row], pool.offset[row + 1])
                dense = np.zeros(POS, dtype=np.float32)
                dense[pool.position[entries]] = pool.value[entries]
                np.testing.assert_array_equal(dense, stream.dense[context, :, latent])
                assert pool.peak[row] == dense[at]
                kept = found.examples.contexts[int(pool.context[row])]
                np.testing.assert_array_equal(kept.tokens, stream.tokens[context])
                np.testing.assert_array_equal(kept.documents, stream.documents[context])
    assert not (pool.latent == D_SAE - 1).any()


def test_another_seed_samples_other_examples(stream: Stream):
    one, two = selection(accumulate(stream, seed=1)), selection(accumulate(stream, seed=2))
    top = [chosen.pool.context[chosen.band < 0].tolist() for chosen in (one, two)]
    sampled = [chosen.pool.context[chosen.band >= 0].tolist() for chosen in (one, two)]
    assert top[0] == top[1]
    assert sampled[0] != sampled[1]


def test_a_repeated_context_gives_one_example(stream: Stream):
    doubled = Stream(**{name: np.concatenate([column, column]) for name, column in vars(stream).items()})
    once, twice = selection(accumulate(stream)), selection(accumulate(doubled))
    tops = [chosen.pool.context[chosen.band < 0].tolist() for chosen in (once, twice)]
    assert tops[0] == tops[1]


def test_sums_are_exact_and_no_order_changes_them():
    random = np.random.default_rng(1)
    value = np.exp(random.uniform(-90, 80, 3000)).astype(np.float32)
    value[:2] = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    exact = sum(Fraction(float(x)) for x in value)
    forward, backward, half, rest = (ExactSum(2) for _ in range(4))
    latent = np.ones(len(value), dtype=np.int32)
    forward.update(latent, value)
    for at in reversed(range(len(value))):
        backward.update(latent[[at]], value[[at]])
    half.update(latent[:1500], value[:1500])
    rest.update(latent[1500:], value[1500:])
    half.merge(rest)
    for found in (forward, backward, half):
        np.testing.assert_array_equal(found.words, forward.words)
    assert forward.value[0] == 0
    assert forward.value[1] == pytest.approx(float(exact), rel=1e-15)
