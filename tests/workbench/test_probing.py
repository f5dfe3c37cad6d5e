"""Probes, against scikit-learn, on planted concepts, and on what Tinytown's generator knows."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.corpus import open_corpus, open_held_out
from workbench.directions import Direction
from workbench.errors import CorpusError, SettingError, UnknownSite
from workbench.probe_data import ProbeData, text_data, token_data
from workbench.probing import Probes, _at_thresholds, auroc, control_labels, fold_of, probe
from workbench.texts import LabelledText, TextCorpus

SITE = "blocks.1.hook_resid_post"


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(rows, labels, types=None, documents=None):
    n = len(rows)
    return ProbeData(
        activations={"here": rows},
        labels=labels,
        concepts=tuple(f"c{i}" for i in range(labels.shape[1])),
        documents=torch.arange(n) // 10 if documents is None else documents,
        types=torch.arange(n) % 50 if types is None else types,
        model="m",
        source="made up",
    )


def linear(n=2000, d=16, threshold=1.0):
    """Rows, and two labels: one that is a half-space but for noise, one that has nothing to do with them."""
    rows = randn(n, d) @ (torch.eye(d) + 0.2 * randn(d, d, seed=1)) * torch.logspace(-2, 2, d)
    score = (rows / rows.std(0)) @ torch.nn.functional.normalize(randn(d, seed=2), dim=0)
    labels = torch.stack([score + 0.3 * randn(n, seed=3) > threshold, randn(n, seed=4) > 1], dim=1)
    return rows, labels


def test_a_planted_concept_is_read_and_a_random_one_is_not():
    found = probe(made(*linear()))
    assert found.auroc[0, 0] > 0.97
    assert found.f1[0, 0] > 0.8
    assert abs(found.auroc[0, 1] - 0.5) < 0.06
    assert abs(found.balanced_accuracy[0, 1] - 0.5) < 0.06
    assert (found.control_auroc - 0.5).abs().max() < 0.1
    assert found.selectivity[0, 0] > 0.4
    assert found.readable.tolist() == [True, False]
    assert "1 of 2 concepts are linearly readable" in str(found)


def test_scores_are_scikit_learns():
    rows, labels = linear()
    data = made(rows, labels)
    found = probe(data, folds=4, ridge=0.02, seed=3)
    groups, x = data.documents.numpy(), rows.double().numpy()
    scores = np.zeros(labels.shape)
    for train, test in GroupKFold(4, shuffle=True, random_state=3).split(x, groups=groups):
        fit = make_pipeline(StandardScaler(), Ridge(alpha=0.02 * len(train), solver="cholesky"))
        scores[test] = fit.fit(x[train], labels[train].double().numpy()).predict(x[test])
    for column in range(2):
        expected = roc_auc_score(labels[:, column], scores[:, column])
        assert found.auroc[0, column].item() == pytest.approx(expected, abs=1e-6)
        best = max(
            f1_score(labels[:, column], scores[:, column] > t) for t in np.linspace(*np.quantile(scores, [0, 1]))
        )
        assert best - 0.08 < found.f1[0, column] <= best + 0.01
        threshold = np.quantile(scores[:, column], 1 - labels[:, column].double().mean())
        assert found.balanced_accuracy[0, column] > balanced_accuracy_score(
            labels[:, column], scores[:, column] > threshold
        ) - 0.03  # fmt: skip


def test_thresholds_come_from_the_other_folds():
    """Scores are labels, but upside down in one fold: a threshold of its own would serve it, the others' does not."""
    n = 1000
    labels = torch.arange(n)[:, None] % 2 == 0
    documents = torch.arange(n) // 4
    fold = fold_of(documents, 5, 0)
    scores = torch.where((fold == 2)[:, None], ~labels, labels).double()
    balanced, f1 = _at_thresholds(scores, labels, fold, 5)
    assert balanced.item() == pytest.approx(1 - (fold == 2).float().mean().item(), abs=1e-6)
    assert f1.item() == pytest.approx(1 - (fold == 2).float().mean().item(), abs=1e-6)


def test_the_area_under_the_curve_counts_ties_half():
    scores = torch.tensor([[0.0], [1.0], [1.0], [2.0]], dtype=torch.float64)
    labels = torch.tensor([[False], [True], [False], [True]])
    assert auroc(scores, labels).item() == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_what_can_be_learned_by_heart_has_no_selectivity():
    n, kinds = 3000, 30
    types = torch.randint(0, kinds, (n,), generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.one_hot(types, kinds).float() + 0.01 * randn(n, kinds)
    found = probe(made(rows, (types < 6)[:, None], types=types))
    assert found.f1[0, 0] > 0.99
    assert found.control_f1[0, 0] > 0.99
    assert abs(found.selectivity[0, 0]) < 0.01


def test_control_labels_are_of_types_and_as_many():
    types = torch.arange(1000) % 37
    labels = control_labels(types, torch.tensor([100, 500, 27]), seed=1)
    for column, wanted in enumerate((100, 500, 27)):
        of_type = [labels[types == kind, column].float().mean().item() for kind in range(37)]
        assert set(of_type) <= {0.0, 1.0}
        assert wanted - 27 < labels[:, column].sum() <= wanted
    assert not torch.equal(labels, control_labels(types, torch.tensor([100, 500, 27]), seed=2))


def test_no_document_is_on_both_sides():
    documents = torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(0))
    fold = fold_of(documents, 5, 0)
    assert all(len(fold[documents == number].unique()) == 1 for number in documents.unique())
    rows = torch.nn.functional.one_hot(documents, 40).float()  # nothing but the document
    found = probe(made(rows, (documents % 3 == 0)[:, None], documents=documents))
    assert found.auroc[0, 0] < 0.6


def test_a_probes_direction_separates_the_means_by_its_length():
    rows, labels = linear()
    found = probe(made(rows, labels))
    direction = found.direction("c0")
    unit = direction.vector / direction.vector.norm()
    gap = (rows[labels[:, 0]].mean(0) - rows[~labels[:, 0]].mean(0)) @ unit
    assert direction.norm == pytest.approx(gap.item(), rel=1e-4)
    assert direction.start == pytest.approx((rows[~labels[:, 0]].mean(0) @ unit).item(), rel=1e-3)
    torch.testing.assert_close(found.cosines("here").diagonal(), torch.ones(2), atol=1e-5, rtol=0)
    with pytest.raises(SettingError, match="no probe for 'c9'"):
        found.direction("c9")
    with pytest.raises(UnknownSite, match="nothing was probed at 'there'"):
        found.direction("c0", "there")


def test_rare_labels_are_left_out():
    rows, labels = linear()
    labels = torch.cat([labels, torch.arange(2000)[:, None] < 30], dim=1)
    assert probe(made(rows, labels)).skipped == ("c2",)
    with pytest.raises(CorpusError, match="no label is in 5 documents"):
        probe(made(rows, labels[:, 2:]))


def test_tokens_with_labels_on_every_architecture(model):
    texts = [
        f"the {animal} sat on the {place}" for animal in ("cat", "dog") for place in ("mat", "bridge", "stone")
    ] * 4
    labelled = [LabelledText(text, spans=((4, 7, text[4:7]),)) for text in texts]
    data = token_data(model, TextCorpus(labelled, model.tokenizer, 64), "blocks.*.hook_resid_post", n_tokens=None)
    found = probe(data.only(["dog"]), ridge=1e-2)
    assert found.concepts == ("dog",)
    assert found.auroc.shape == (3, 1)
    assert found.auroc[0, 0] > 0.95
    with pytest.raises(SettingError, match="no labels of 'dgo'; did you mean 'dog'"):
        data.only(["dgo"])


def test_texts_with_labels_on_every_architecture(model):
    texts = [f"the {animal} sat on a {place}" for animal in ("cat", "dog") for place in ("mat", "bridge", "stone")] * 5
    data = text_data(model, texts, [text[4:7] for text in texts], [SITE], pool="mean")
    found = probe(data)
    assert found.concepts == ("dog",)
    assert found.auroc[0, 0] > 0.99
    with pytest.raises(SettingError, match="two labels or more"):
        text_data(model, texts, ["x"] * len(texts), [SITE])


@pytest.fixture(scope="module")
def probes(tinytown) -> Probes:
    corpus = open_held_out("tinytown", tinytown.tokenizer)
    return probe(token_data(tinytown, corpus, "blocks.*.hook_resid_post", n_tokens=20_000))


def test_nearly_all_concepts_of_tinytown_are_linearly_readable(probes):
    assert len(probes.concepts) >= 53
    assert probes.readable.float().mean() >= 0.9
    assert (probes.f1.amax(0) >= 0.8).float().mean() > 0.7
    assert (probes.selectivity.amax(0) > 0.1).float().mean() > 0.9


def test_what_context_tells_is_read_deeper_than_what_the_word_tells(probes):
    def at(concept, layer):
        return probes.auroc[layer, probes.concepts.index(concept)]

    assert at("weather", 0) > 0.99 > 0.9 > at("weather", 3)
    assert at("repeated_fragment", 3) > 0.94 > at("repeated_fragment", 0)


def test_probes_on_disk(probes, tinytown, tmp_path):
    probes.save(tmp_path)
    direction = Direction.load(tmp_path / "glad.safetensors", tinytown)
    assert torch.equal(direction.vector, probes.direction("glad").vector)
    saved = json.loads((tmp_path / "probes.json").read_text())
    assert saved["concepts"] == list(probes.concepts)
    assert np.array(saved["auroc"]).shape == (4, len(probes.concepts))


def test_a_corpus_without_labels_is_refused(hooked, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("the cat sat on the mat " * 50)
    with pytest.raises(SettingError, match="has no labels to probe for"):
        token_data(hooked("gpt2"), open_corpus(path, hooked("gpt2").tokenizer, context=32), SITE)
