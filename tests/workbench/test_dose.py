"""Dose and response, against counting and against running the model by hand; and what steering does to Tinytown."""

from itertools import pairwise

import pytest
import torch

from workbench.corpus import open_corpus, open_held_out
from workbench.directions import Direction, concept_direction
from workbench.dose import Damage, DoseResponse, damage, dose_response
from workbench.edits import add
from workbench.effects import Effect, Response, beginnings, concept_rate, concept_tokens, metric_effect, says
from workbench.errors import CorpusError, SettingError
from workbench.metrics import PROBABILITY
from workbench.prompts import prompt_pairs
from workbench.texts import LabelledText, TextCorpus

SITE = "blocks.1.hook_resid_post"


def vector(seed=3, d=32):
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def texts(model):
    lines = ["The cat sat on the mat, and the dog ran.", "Where is the café?", "It is near the bridge"]
    return TextCorpus([LabelledText(line) for line in lines], model.tokenizer, 64), lines


def test_damage_is_that_of_texts_one_by_one(model):
    corpus, lines = texts(model)
    edits = [[], [add(SITE, vector(), 2.0)]]
    found = damage(model, corpus, edits, batch_size=2)
    losses, divergences, n = [0.0, 0.0], [0.0, 0.0], 0
    for line in lines:
        tokens = model.to_tokens(line)
        plain = model.run(tokens).logits[0, :-1].double().log_softmax(-1)
        for number, chosen in enumerate(edits):
            edited = model.run(tokens, edits=chosen).logits[0, :-1].double().log_softmax(-1)
            losses[number] += torch.nn.functional.nll_loss(edited, tokens[0, 1:], reduction="sum").item()
            divergences[number] += torch.nn.functional.kl_div(edited, plain, log_target=True, reduction="sum").item()
        n += tokens.shape[1] - 1
    assert found.n_tokens == n
    assert found.loss.tolist() == pytest.approx([loss / n for loss in losses], abs=1e-4)
    assert found.kl.tolist() == pytest.approx([value / n for value in divergences], abs=1e-4)
    assert found.plain_loss == pytest.approx(losses[0] / n, abs=1e-4)


def test_no_token_is_predicted_from_another_document(tinytown):
    corpus = open_corpus("tinytown", tinytown.tokenizer)
    batch = next(corpus.batches(4))
    found = damage(tinytown, corpus, [[]], n_tokens=1, batch_size=4)
    inside = sum(int(a == b and a >= 0) for row in batch.documents.tolist() for a, b in pairwise(row))
    assert found.n_tokens == inside < batch.mask()[:, 1:].sum()


def test_a_text_of_one_token_has_nothing_to_predict(hooked):
    model = hooked("gpt2")
    with pytest.raises(CorpusError, match="no token to predict"):
        damage(model, TextCorpus([LabelledText("a")], model.tokenizer, 64), [[]])


def test_the_rate_is_counted(hooked):
    model, prompts = hooked("gpt2"), ["The cat", "The dog ran", "Where"]
    written = [model.generate(text, max_new_tokens=6, seed=i).new_tokens.tolist() for i, text in enumerate(prompts)]
    token = written[1][2]
    response = concept_rate(model, prompts, {token}, max_new_tokens=6).respond([])
    assert response.values.tolist() == [float(token in one) for one in written]
    by_length = concept_rate(model, prompts, lambda one: one.n_prompt > 3, max_new_tokens=6).respond([])
    assert by_length.values.tolist() == [float(model.to_tokens(text).shape[1] > 3) for text in prompts]


def test_words_are_whole(tinytown):
    holds = says(tinytown, ["Paris", "sat"])
    written = tinytown.generate("Mary sat", max_new_tokens=0)
    assert not holds(written)  # what the prompt says does not count
    pretend = type(written)(tinytown.to_tokens("Mary went to Paris .")[0], None, 2, "length")
    assert holds(pretend)
    assert not says(tinytown, ["Pari"])(pretend)


def test_a_metric_is_that_of_a_run(model):
    pairs = prompt_pairs(model, ["the cat", "the mat"], ["the mat", "the cat"], ["s", "a"], ["t", "t"])
    edit = add(SITE, vector())
    found = metric_effect(model, pairs, PROBABILITY).respond([edit]).values
    logits = model.run(pairs.clean, edits=[edit]).logits[:, -1].softmax(-1)
    assert found.tolist() == pytest.approx(
        [logits[i, answer].item() for i, answer in enumerate(pairs.answers)], abs=1e-5
    )


def response(values, loss, is_rate=True):
    direction, n = Direction("x", vector(), SITE, "mean", "m", 1.0), len(values[0])
    cost = Damage(torch.tensor(loss), torch.tensor(loss) - 2.0, 2.0, 100)
    return DoseResponse(
        direction,
        how="add",
        effect="effect",
        is_rate=is_rate,
        doses=tuple(map(float, range(len(loss)))),
        values=torch.tensor(values),
        plain_values=torch.zeros(n),
        damage=cost,
        texts=((),) * len(loss),
        plain_texts=(),
        budget=0.1,
    )


def test_the_strongest_effect_within_the_budget_is_chosen():
    found = response([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]], [2.0, 2.1, 2.15, 2.3])
    assert found.rise.tolist() == pytest.approx([0, 0.05, 0.075, 0.15])
    assert found.chosen == 1
    assert "←" in str(found).splitlines()[5]
    assert response([[0.0, 0.0]], [2.0]).chosen is None
    assert "No dose has an effect" in str(response([[0.0, 0.0]], [2.0]))


def test_intervals():
    low, high = response([[1.0] * 8 + [0.0] * 2], [2.0]).interval
    assert (low.item(), high.item()) == pytest.approx((0.4902, 0.9433), abs=1e-3)  # Wilson 1927, 8 of 10
    low, high = response([[1.0, 2.0, 3.0, 4.0]], [2.0], is_rate=False).interval
    half = 1.96 * torch.tensor([1.0, 2.0, 3.0, 4.0]).std().item() / 2
    assert (low.item(), high.item()) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-4)


def test_a_dose_of_nothing_is_no_steering(model):
    corpus, _ = texts(model)
    direction = Direction("x", vector(), SITE, "mean", model.fingerprint, 1.0)
    effect = concept_rate(model, ["the cat", "the old dog"], {7, 70, 170}, max_new_tokens=4)
    found = dose_response(model, direction, effect, corpus, doses=(0, 4.0))
    assert torch.equal(found.values[0], found.plain_values)
    assert found.texts[0] == found.plain_texts
    assert found.damage.loss[0].item() == pytest.approx(found.damage.plain_loss, abs=1e-5)
    assert found.damage.kl[0] < 1e-5 < found.damage.kl[1]
    assert str(found).count("\n") >= 5


def test_what_is_no_study(hooked):
    model = hooked("gpt2")
    direction = Direction("x", vector(), SITE, "mean", model.fingerprint, 1.0)
    effect = Effect("none", lambda edits: Response(torch.zeros(1)))
    for settings in ({"doses": ()}, {"how": "ablate"}):
        with pytest.raises(SettingError, match="needs doses"):
            dose_response(model, direction, effect, texts(model)[0], **settings)


def test_the_tokens_of_a_concept_are_the_words_that_have_it(tinytown):
    corpus = open_corpus("tinytown", tinytown.tokenizer)
    glad = {word.strip() for word in tinytown.token_strings(sorted(concept_tokens(corpus, "glad")))}
    assert glad == {"happy", "glad", "pleased", "cheerful", "delighted", "proud", "calm", "content"}
    with pytest.raises(SettingError, match="did you mean 'glad'"):
        concept_tokens(corpus, "gald")


def test_beginnings_are_of_documents(tinytown):
    corpus = open_held_out("tinytown:story", tinytown.tokenizer)
    found = beginnings(corpus, 40, 5)
    assert found.shape == (40, 5)
    bos = tinytown.tokenizer.bos_token_id
    assert (found[:, 0] == bos).all()
    assert not (found[:, 1:] == bos).any()


@pytest.fixture(scope="module")
def french(tinytown):
    """Masculine French nouns, which no English story says but as a translation."""
    corpus = open_corpus("tinytown", tinytown.tokenizer)
    direction = concept_direction(tinytown, corpus, "french_masculine", "blocks.2.hook_resid_post")
    prompts = beginnings(open_held_out("tinytown:story", tinytown.tokenizer), 100, 4)
    said = concept_tokens(corpus, "french_masculine")
    effect = concept_rate(tinytown, prompts, said, max_new_tokens=36, batch_size=100)
    return direction, effect, open_held_out("tinytown", tinytown.tokenizer)


def test_a_concept_that_is_rare_becomes_common_at_a_price_below_a_tenth_of_the_loss(tinytown, french):
    direction, effect, held_out = french
    found = dose_response(tinytown, direction, effect, held_out, doses=(0.5, 1.5), how="clamp")
    assert found.plain_values.mean() < 0.05
    assert found.response[1] > 0.8
    assert found.rise[1] < 0.1
    assert found.response[0] < 0.2
    assert found.chosen == 1


def test_a_random_direction_of_that_length_does_not_make_it_common(tinytown, french):
    direction, effect, held_out = french
    random = direction.norm * torch.nn.functional.normalize(vector(seed=0, d=128), dim=0)
    placebo = Direction("random", random, direction.site, "random", tinytown.fingerprint, 1.0)
    found = dose_response(tinytown, placebo, effect, held_out, doses=(1.5,), how="clamp")
    assert found.response[0] < 0.2
