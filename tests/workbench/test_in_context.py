"""The loss along a context, against Hugging Face alone and against numbers made by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from workbench import in_context as module
from workbench.corpus import Position, TokenBatch, open_corpus
from workbench.errors import CorpusError, SettingError
from workbench.figures import in_context as figures
from workbench.figures.frame import title
from workbench.in_context import in_context
from workbench.model import HookedModel, load_model

TEXT = "The cat sat on the mat, and the dog ran after the cat. Where is the café? It is near the old stone bridge."


@pytest.fixture
def corpus(hooked, tmp_path):
    """Eight contexts of 24 tokens, the last of them padded."""
    (tmp_path / "text.txt").write_text("\n\n".join(TEXT[n:] for n in range(0, 60, 7)))
    return open_corpus(tmp_path / "text.txt", hooked("gpt2").tokenizer, context=24)


def test_losses_are_those_of_hugging_face(model, reference, corpus):
    found = in_context(model, corpus, contexts=8, early=3, late=20)
    rows = torch.cat([batch.tokens for batch in corpus.batches(3)])[:8]
    documents = torch.cat([batch.documents for batch in corpus.batches(3)])[:8]
    with torch.no_grad():
        log_probs = reference(rows).logits.log_softmax(-1)
    losses = [[math.nan] * 24 for _ in rows]
    for row in range(len(rows)):
        for position in range(1, 24):
            if rows[row, position] != 0 and documents[row, position] >= 0:  # 0 is BOS
                losses[row][position] = -log_probs[row, position - 1, rows[row, position]].item()
    losses = torch.tensor(losses)
    torch.testing.assert_close(found.loss, losses.nanmean(0), atol=1e-4, rtol=1e-4, equal_nan=True)
    assert found.mean_loss == pytest.approx(losses.nanmean().item(), abs=1e-4)
    difference = (losses[:, 20] - losses[:, 3])[~(losses[:, 20] - losses[:, 3]).isnan()]
    assert len(difference) >= 3
    assert found.score == pytest.approx(difference.mean().item(), abs=1e-4)
    assert found.score_margin == pytest.approx(1.96 * difference.std().item() / len(difference) ** 0.5, abs=1e-4)
    assert found.contexts == 8


def test_batches_make_no_difference(hooked, corpus, monkeypatch):
    whole = in_context(hooked("llama"), corpus, contexts=7)
    monkeypatch.setattr(module, "MAX_LOGITS", 24 * 300 * 2)
    torch.testing.assert_close(in_context(hooked("llama"), corpus, contexts=7).loss, whole.loss, equal_nan=True)


class KnownModel(HookedModel):
    """A model whose loss on token t is t nats."""

    tokenizer, device = None, torch.device("cpu")

    def __init__(self):
        self.info = SimpleNamespace(d_vocab=6, n_ctx=4)

    def run(self, tokens):
        probs = torch.exp(-torch.arange(6.0))
        probs[0] = 1 - probs[1:].sum()
        return SimpleNamespace(logits=probs.log().expand(*tokens.shape, 6))


class KnownCorpus:
    name, context, concepts, fingerprint = "made", 4, (), ""
    rows = ((0, 1, 2, 3), (0, 2, 2, 5), (0, 3, 1, 4))

    def batches(self, batch_size, position=None, repeat=False):
        for start in range(0, len(self.rows), batch_size):
            tokens = torch.tensor(self.rows[start : start + batch_size])
            yield TokenBatch(tokens, torch.zeros_like(tokens), Position())


def test_the_score_of_known_losses():
    found = in_context(KnownModel(), KnownCorpus(), contexts=3, early=1, late=3)
    torch.testing.assert_close(found.loss, torch.tensor([math.nan, 2.0, 5 / 3, 4.0]), equal_nan=True)
    assert found.score == pytest.approx(2.0)  # 3 - 1, 5 - 2, 4 - 3
    assert found.score_margin == pytest.approx(1.96 * 1 / math.sqrt(3))
    assert str(found).startswith("In-context learning score 2.000 ± 1.132 nats: loss 4.000 at position 3, 2.000 at")
    assert title(figures.figure(found)) == "Loss by position: score 2.00 ± 1.13 nats"
    assert in_context(KnownModel(), KnownCorpus(), contexts=2, early=1, late=3).loss[3] == 4.0


def test_the_bundled_model_learns_in_context():
    model = load_model("tinytown")
    found = in_context(model, open_corpus("tinytown:passages", context=128), contexts=48)
    assert (found.early, found.late) == (12, 125)
    assert found.score + found.score_margin < -1


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"early": 5, "late": 5}, SettingError, "1 <= early < late <= 23"),
        ({"early": 0}, SettingError, "1 <= early < late"),
        ({"late": 24}, SettingError, "1 <= early < late"),
        ({"contexts": 1}, SettingError, "contexts is 1; an interval takes at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(hooked, corpus, options, error, says):
    with pytest.raises(error, match=says):
        in_context(hooked("gpt2"), corpus, **options)


def test_a_corpus_that_is_too_short_or_contexts_that_are_too_long(hooked, tmp_path):
    (tmp_path / "text.txt").write_text("The cat sat on the mat.")
    tokenizer = hooked("gpt2").tokenizer
    with pytest.raises(CorpusError, match="less than two contexts with tokens at positions"):
        in_context(hooked("gpt2"), open_corpus(tmp_path / "text.txt", tokenizer, context=32))
    with pytest.raises(SettingError, match="this model takes at most 64"):
        in_context(hooked("gpt2"), open_corpus(tmp_path / "text.txt", tokenizer, context=65))
