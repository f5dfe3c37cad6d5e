"""Directions, against NumPy and scikit-learn on planted ones, and against Hugging Face's own hidden states."""

import json

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from workbench.corpus import open_corpus
from workbench.directions import (
    Direction,
    activation_difference,
    concept_direction,
    contrast_direction,
    direction_between,
    logistic_normal,
    principal_difference,
    read_contrasts,
)
from workbench.errors import DamagedFile, ModelError, PromptError, SettingError, UnknownSite
from workbench.files import write_tensors

SITE = "blocks.1.hook_resid_post"
GLAD, SAD = ["the cat ran", "the dog ran after"], ["a stone bridge", "the old mat"]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def planted(n=500, d=12, length=3.0):
    """Two clouds that differ by `length` times an axis, and the axis."""
    axis = torch.nn.functional.normalize(randn(d, seed=9), dim=0)
    return randn(n, d, seed=1) + length * axis, randn(n, d, seed=2), axis


@pytest.mark.parametrize("method", ["mean", "pca", "logistic"])
def test_every_method_finds_a_planted_direction_in_the_same_unit(method):
    positive, negative, axis = planted()
    vector, start = direction_between(positive, negative, method)
    assert torch.nn.functional.cosine_similarity(vector, axis, dim=0) > 0.97
    assert vector.norm().item() == pytest.approx(3.0, abs=0.15)
    unit = vector / vector.norm()
    difference = positive.numpy().mean(0) - negative.numpy().mean(0)
    assert vector.norm().item() == pytest.approx(float(difference @ unit.numpy()), abs=1e-5)
    assert start == pytest.approx(float(negative.numpy().mean(0) @ unit.numpy()), abs=1e-5)
    backwards, _ = direction_between(negative, positive, method)
    torch.testing.assert_close(backwards, -vector, atol=1e-4, rtol=0)


def test_the_mean_is_numpys():
    positive, negative, _ = planted(n=37)
    vector, _ = direction_between(positive, negative[:11], "mean")
    np.testing.assert_allclose(vector, positive.numpy().mean(0) - negative[:11].numpy().mean(0), atol=1e-5)


def test_the_principal_component_is_scikit_learns():
    positive, negative, _ = planted(n=60)
    differences = (positive - negative).numpy()
    expected = PCA(1).fit(np.concatenate([differences, -differences])).components_[0]
    assert abs(float(principal_difference(positive, negative).numpy() @ expected)) == pytest.approx(1, abs=1e-6)
    thinned = principal_difference(positive, torch.repeat_interleave(negative, 3, dim=0)[:178])
    assert thinned.shape == (12,)


def test_the_logistic_normal_is_near_the_discriminant_where_both_kinds_are_gaussian():
    positive, negative, _ = planted(n=4000, length=1.5)
    mixing = torch.eye(12) + 0.3 * randn(12, 12, seed=5)
    positive, negative = positive @ mixing, negative @ mixing
    rows, labels = torch.cat([positive, negative]).numpy(), [1] * 4000 + [0] * 4000
    expected = torch.from_numpy(LinearDiscriminantAnalysis().fit(rows, labels).coef_[0]).float()
    assert torch.nn.functional.cosine_similarity(logistic_normal(positive, negative), expected, dim=0) > 0.99


def test_examples_of_one_kind_are_refused():
    with pytest.raises(SettingError, match="examples of both kinds"):
        direction_between(randn(3, 4), randn(0, 4))
    with pytest.raises(SettingError, match="no method 'median'"):
        direction_between(randn(3, 4), randn(3, 4), "median")
    with pytest.raises(SettingError, match="vector of zeros"):
        Direction("x", torch.zeros(4), SITE, "mean", "f", 1.0)


def test_contrasts_are_read_at_the_last_token_of_hugging_face_and_at_their_mean(model, reference):
    last = contrast_direction(model, GLAD, SAD, SITE)
    mean = contrast_direction(model, GLAD, SAD, SITE, pool="mean")
    states = []
    for text in GLAD + SAD:
        with torch.no_grad():
            states.append(reference(model.to_tokens(text), output_hidden_states=True).hidden_states[2][0])
    for found, pooled in ((last, [s[-1] for s in states]), (mean, [s.mean(0) for s in states])):
        expected = sum(pooled[:2]) / 2 - sum(pooled[2:]) / 2
        torch.testing.assert_close(found.vector, expected, atol=1e-4, rtol=1e-3)
    assert last.typical_norm == pytest.approx(torch.stack([s[-1] for s in states]).norm(dim=1).mean().item(), rel=1e-4)
    assert last.source["positive"] == GLAD


def test_activation_addition_has_a_row_for_each_position(model):
    direction = activation_difference(model, "the cat", "the mat", SITE)
    a, b = (model.run(model.to_tokens(text), capture=[SITE])[SITE][0] for text in ("the cat", "the mat"))
    torch.testing.assert_close(direction.vector, a - b, atol=1e-5, rtol=1e-4)
    with pytest.raises(PromptError, match="tokens; make them as many"):
        activation_difference(model, "the cat", "the cat sat on the mat", SITE)


def test_a_concept_direction_is_the_difference_of_its_tokens_and_the_rest(tinytown):
    corpus = open_corpus("tinytown", tinytown.tokenizer)
    found = concept_direction(tinytown, corpus, "glad", SITE, n_tokens=4000)
    rows = {True: [], False: []}
    glad = {"happy", "glad", "pleased", "cheerful", "delighted", "proud", "calm", "content"}
    for batch in open_corpus("tinytown", tinytown.tokenizer).batches(32):
        activations = tinytown.run(batch.tokens, capture=[SITE])[SITE]
        for place in ((batch.documents >= 0) & (batch.tokens != 0)).nonzero().tolist():
            word = tinytown.token_strings(batch.tokens[place[0], place[1]][None])[0].strip()
            rows[word in glad].append(activations[place[0], place[1]])
        break
    expected = torch.stack(rows[True]).mean(0) - torch.stack(rows[False]).mean(0)
    torch.testing.assert_close(found.vector, expected, atol=1e-3, rtol=1e-3)
    assert found.source["n"] == [len(rows[True]), len(rows[False])]


def test_what_a_concept_direction_cannot_be_made_of(tinytown):
    corpus = open_corpus("tinytown", tinytown.tokenizer)
    with pytest.raises(SettingError, match="no labels of 'gald'; did you mean 'glad'"):
        concept_direction(tinytown, corpus, "gald", SITE)
    with pytest.raises(SettingError, match=r"one site; blocks.\*.hook_resid_post names 4"):
        concept_direction(tinytown, corpus, "glad", "blocks.*.hook_resid_post")
    with pytest.raises(UnknownSite):
        concept_direction(tinytown, corpus, "glad", "blocks.9.hook_resid_post")


def test_a_saved_direction_comes_back_and_keeps_to_its_model(hooked, tmp_path):
    direction = contrast_direction(hooked("gpt2"), GLAD, SAD, SITE, name="alive", method="logistic")
    path = tmp_path / "alive.safetensors"
    direction.save(path)
    loaded = Direction.load(path, hooked("gpt2"))
    assert torch.equal(loaded.vector, direction.vector)
    assert {k: v for k, v in vars(loaded).items() if k != "vector"} == {
        k: v for k, v in vars(direction).items() if k != "vector"
    }
    assert str(loaded).startswith(f"alive at {SITE}, by logistic")
    with pytest.raises(ModelError, match="'alive' belongs to a model with fingerprint") as caught:
        Direction.load(path, hooked("llama"))
    assert "\n" not in str(caught.value)


def test_what_is_no_direction(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(DamagedFile, match="is missing"):
        Direction.load(path)
    write_tensors(path, {"vector": torch.ones(3)})
    with pytest.raises(DamagedFile, match="holds no direction"):
        Direction.load(path)
    write_tensors(path, {"vector": torch.ones(3)}, {"format": "interp-workbench direction 1", "direction": "{}"})
    with pytest.raises(DamagedFile, match="damaged direction"):
        Direction.load(path)


def test_contrasts_from_a_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"positive": a, "negative": b}) for a, b in zip(GLAD, SAD, strict=True)))
    assert read_contrasts(path) == (GLAD, SAD)
    for text, message in (("", "no pairs"), ('{"positive": "a"}', "line 1: each line has"), ("{", "not valid JSON")):
        path.write_text(text)
        with pytest.raises(DamagedFile, match=message):
            read_contrasts(path)
