"""Analogies, erasure and transfer: on planted geometry, and on what Tinytown's generator knows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from workbench.edits import project_out
from workbench.erasure import erase, leace
from workbench.errors import PromptError, SettingError
from workbench.linear_representation import _analogies, analogies, transfer
from workbench.probe_data import ProbeData, text_data
from workbench.probing import auroc, probe

SITE = "blocks.1.hook_resid_post"
WORDS = [("c", "d"), ("e", "f"), ("g", "h")]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_shared_offset_is_an_analogy():
    left, offset = 3 * randn(20, 8), 6 * randn(8, seed=1)
    rows = torch.cat([left, left + offset + 0.01 * randn(20, 8, seed=2)])
    pairs = torch.stack([torch.arange(20), torch.arange(20) + 20], dim=1)
    accuracy, nearest, consistency = _analogies(rows, pairs)
    assert accuracy == 1
    assert nearest < 0.6
    assert consistency > 0.99
    accuracy, _, consistency = _analogies(randn(40, 8, seed=3), pairs)
    assert accuracy < 0.2
    assert abs(consistency) < 0.15


def test_analogies_by_hand(model):
    found = analogies(model, WORDS, ("W_E", "W_U", SITE))
    words = [word for pair in WORDS for word in pair]
    tokens = torch.stack([model.to_tokens(word)[0, -1] for word in words])
    spaces = (
        model.W_E[tokens],
        model.W_U[:, tokens].T,
        torch.stack([model.run(model.to_tokens(word), capture=[SITE])[SITE][0, -1] for word in words]),
    )
    for row, space in enumerate(spaces):
        hits = []
        for i in range(3):
            for j in range(3):
                if i == j:
                    continue
                a, b, c, d = 2 * i, 2 * i + 1, 2 * j, 2 * j + 1
                query = space[b] - space[a] + space[c]
                left = [k for k in range(6) if k not in (a, b, c)]
                cosines = [torch.nn.functional.cosine_similarity(query, space[k], dim=0) for k in left]
                hits.append(left[int(torch.stack(cosines).argmax())] == d)
        assert found.accuracy[row].item() == pytest.approx(np.mean(hits), abs=1e-6)
    assert found.n_analogies == 6
    assert str(found).endswith(SITE)


def test_what_is_no_analogy(hooked):
    with pytest.raises(SettingError, match="two pairs"):
        analogies(hooked("gpt2"), WORDS[:1])
    with pytest.raises(PromptError, match=r"is .* tokens; analogies are between words of one"):
        analogies(hooked("gpt2"), [("bridge over", "mat"), ("a", "b")])


def concept(n=3000, d=12):
    labels = randn(n, seed=5) > 0.8
    rows = randn(n, d) @ (torch.eye(d) + 0.4 * randn(d, d, seed=1)) + labels[:, None] * randn(d, seed=2)
    return rows, labels


def test_what_is_erased_cannot_be_learned():
    rows, labels = concept()
    erased = leace(rows, labels)(rows)
    before = LogisticRegression(max_iter=2000).fit(rows, labels).decision_function(rows)
    after = LogisticRegression(max_iter=2000).fit(erased, labels).decision_function(erased)
    assert auroc(torch.tensor(before)[:, None].double(), labels[:, None]) > 0.75
    assert np.ptp(after) < 0.05
    covariance = (erased - erased.mean(0)).T @ (labels.float() - labels.float().mean()) / len(rows)
    assert covariance.abs().max() < 1e-5


def test_erasure_changes_less_than_projecting_the_mean_difference_out_and_the_means_stay():
    rows, labels = concept()
    eraser = leace(rows, labels)
    direction = rows[labels].mean(0) - rows[~labels].mean(0)
    unit = direction / direction.norm()
    centred = rows - rows.mean(0)
    projected = rows - (centred @ unit)[:, None] * unit
    whitened = torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows.T))).T

    def cost(new):
        return ((new - rows) @ whitened).square().sum()

    assert cost(eraser(rows)) < cost(projected)
    torch.testing.assert_close(eraser(rows).mean(0), rows.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(eraser(eraser(rows)), eraser(rows), atol=1e-4, rtol=0)
    with pytest.raises(SettingError, match="with the concept and rows without"):
        leace(rows, torch.ones(len(rows), dtype=torch.bool))


def test_a_constant_dimension_does_no_harm():
    rows, labels = concept()
    rows = torch.cat([rows, torch.full((len(rows), 1), 5.0)], dim=1)
    assert torch.isfinite(leace(rows, labels)(rows)).all()


def test_erasing_while_the_model_runs(model, prompt):
    rows = randn(200, 32)
    eraser = leace(rows, rows[:, 0] > 0)
    plain = model.run(prompt, capture=[SITE])[SITE]
    run = model.run(prompt, capture=[SITE], edits=[erase(SITE, eraser, positions=[4])])[SITE]
    torch.testing.assert_close(run[:, 4], eraser(plain[:, 4]), atol=1e-4, rtol=1e-4)
    assert torch.equal(run[:, :4], plain[:, :4])


def group(rows, labels):
    n = len(rows)
    return ProbeData({"here": rows}, labels[:, None], ("c",), torch.arange(n), torch.arange(n), "m", "made")


def test_a_direction_carries_over_says_nothing_or_the_opposite():
    labels = randn(600, seed=4) > 0
    sign, axis = labels.float()[:, None] * 2 - 1, torch.eye(6)
    groups = {
        "one": group(2 * sign * axis[0] + randn(600, 6), labels),
        "same": group(2 * sign * axis[0] + randn(600, 6, seed=1), labels),
        "opposite": group(-2 * sign * axis[0] + randn(600, 6, seed=2), labels),
        "other": group(2 * sign * axis[1] + randn(600, 6, seed=3), labels),
    }
    found = transfer(groups)
    assert found.auroc[0, 0].tolist() == pytest.approx([1, 1, 0, 0.5], abs=0.1)
    assert (found.auroc[0].diagonal() > 0.95).all()
    noise = group(randn(600, 6, seed=7), labels)
    assert transfer({"noise": noise}).auroc[0, 0, 0].item() == pytest.approx(0.5, abs=0.08)  # out of fold
    with pytest.raises(SettingError, match="one concept each"):
        transfer({})


@pytest.fixture(scope="module")
def judgements(tinytown):
    """Plain and negated judgements, cut after the word that judges, or whole; and whether somebody is glad of it."""
    words = {"glad": ("good", "great", "lovely", "nice", "superb"), "sad": ("bad", "ugly", "poor", "rotten", "nasty")}
    made = {}
    for kind, leads in (("plain", ("very", "really", "quite")), ("negated", ("not", "never"))):
        rows = [
            (f"The {food} was {lead} {word}", mood if kind == "plain" else {"glad": "sad", "sad": "glad"}[mood])
            for food in ("bread", "cheese", "soup", "cake")
            for lead in leads
            for mood, listed in words.items()
            for word in listed
        ]
        texts, moods = zip(*rows, strict=True)
        made[kind] = text_data(tinytown, texts, moods, "blocks.*.hook_resid_post")
        whole = [f"{text} , so Mary felt" for text in texts]
        made[f"{kind}, whole"] = text_data(tinytown, whole, moods, "blocks.*.hook_resid_post")
    return made


def test_the_direction_of_a_judging_word_is_upside_down_under_negation(judgements):
    found = transfer({name: judgements[name] for name in ("plain", "negated")})
    assert found.auroc[0, 0, 0] > 0.95
    assert found.auroc[0, 0, 1] < 0.05


def test_the_direction_of_what_somebody_feels_holds_under_negation(judgements):
    found = transfer({name: judgements[f"{name}, whole"] for name in ("plain", "negated")})
    assert found.auroc[2].min() > 0.95
    assert found.auroc[3].min() > 0.95


def test_the_felt_direction_is_what_the_model_answers_by(tinytown, judgements):
    """Taking it out where it is read, at the last token, takes the answer away; a random one does not."""
    data = judgements["plain, whole"]
    rows, labels = data.activations["blocks.2.hook_resid_post"], data.labels[:, 0]
    direction = rows[labels].mean(0) - rows[~labels].mean(0)
    glad, sad = (tinytown.to_tokens(word, prepend_bos=False)[0, 0] for word in ("happy", "sad"))
    texts = ["The soup was very good , so Mary felt", "The soup was very bad , so Mary felt"]

    def gap(edits):
        logits = tinytown.run(texts, edits=edits).logits[:, -1]
        difference = logits[:, glad] - logits[:, sad]
        return (difference[0] - difference[1]).item()

    plain = gap([])
    assert gap([project_out("blocks.2.hook_resid_post", direction, positions=-1)]) < 0.3 * plain
    assert gap([project_out("blocks.2.hook_resid_post", randn(128), positions=-1)]) > 0.8 * plain


def test_erasing_a_concept_takes_its_readability_away(judgements):
    data = judgements["plain, whole"]
    site = "blocks.2.hook_resid_post"
    rows = data.activations[site]
    eraser = leace(rows, data.labels[:, 0])
    erased = ProbeData({site: eraser(rows)}, data.labels, data.concepts, data.documents, data.types, "m", "erased")
    assert probe(data).auroc[2, 0] > 0.95
    assert probe(erased).auroc[0, 0] < 0.6
