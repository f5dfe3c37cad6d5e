"""Labelled texts: read from a file, served as a corpus whose padding and order change nothing."""

import json

import pytest
import torch

from workbench.activations import harvest
from workbench.corpus import Corpus, Position
from workbench.errors import CorpusError, DamagedFile, PromptError, SettingError
from workbench.texts import LabelledText, TextCorpus, pooled_activations, read_labelled, read_labels

SITE = "blocks.1.hook_resid_post"
TEXTS = ["The cat sat on the mat, and the dog ran", "Where", "the old stone bridge", "A café"]


def test_every_text_is_read_as_if_alone(model):
    for pool in ("last", "mean"):
        found = pooled_activations(model, TEXTS, [SITE], pool=pool, batch_size=3)[SITE]
        for text, row in zip(TEXTS, found, strict=True):
            alone = model.run(text, capture=[SITE])[SITE][0]
            torch.testing.assert_close(row, alone[-1] if pool == "last" else alone.mean(0), atol=1e-5, rtol=1e-4)


def test_the_bos_is_no_part_of_the_mean(tinytown):
    found = pooled_activations(tinytown, ["The cat sat"], [SITE], pool="mean")[SITE][0]
    alone = tinytown.run("The cat sat", capture=[SITE])[SITE][0]
    assert tinytown.to_tokens("The cat sat").shape == (1, 4)
    torch.testing.assert_close(found, alone[1:].mean(0), atol=1e-5, rtol=1e-4)


def test_spans_label_the_tokens_that_they_touch(hooked):
    model, text = hooked("gpt2"), "the cat sat on the mat"
    labelled = LabelledText(text, spans=((4, 7, "animal"), (4, 11, "event"), (19, 20, "place")))
    corpus = TextCorpus([labelled, LabelledText("the")], model.tokenizer, 64)
    assert isinstance(corpus, Corpus)
    (batch,) = corpus.batches(2)
    assert corpus.concepts == ("animal", "event", "place")
    row = batch.documents[:, 0].tolist().index(0)
    marked = dict.fromkeys(corpus.concepts, "")
    for string, labels in zip(model.token_strings(batch.tokens[row]), batch.labels[row], strict=True):
        for name, has in zip(corpus.concepts, labels.tolist(), strict=True):
            marked[name] += string if has else ""
    assert marked["animal"].strip() == "cat"
    assert marked["event"].strip() == "cat sat"
    assert "m" in marked["place"]
    assert batch.documents.amin(1).tolist() == [-1, 0]
    assert not batch.labels[1 - row].any()


def test_reading_goes_on_where_it_stopped_and_begins_again(hooked):
    model = hooked("llama")
    corpus = TextCorpus([LabelledText(text) for text in TEXTS], model.tokenizer, 64)
    whole = list(corpus.batches(1))
    assert [b.documents[0, 0].item() for b in whole] == [1, 3, 2, 0]
    assert [b.documents[0, 0].item() for b in corpus.batches(1, whole[1].position)] == [2, 0]
    endless = corpus.batches(3, Position(), repeat=True)
    assert [next(endless).documents[0, 0].item() for _ in range(3)] == [1, 0, 1]
    assert len(list(harvest(model, corpus, [SITE], batch_size=2))) == 2


def test_a_long_text_is_cut_at_the_context(hooked):
    found = pooled_activations(hooked("llama"), ["the cat sat on the mat " * 30], [SITE])[SITE]
    assert found.shape == (1, 32)


def test_labels_from_a_file(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"text": "a", "label": 1}\n\n{"text": "b", "label": "x"}\n')
    assert read_labels(path) == (["a", "b"], ["1", "x"])
    table = tmp_path / "labels.csv"
    table.write_text("text,label\na,1\nb,x\n")
    assert read_labels(table) == read_labels(path)
    path.write_text(json.dumps({"text": "abc", "spans": [[0, 2, "x"]]}))
    assert read_labelled(path) == [LabelledText("abc", spans=((0, 2, "x"),))]
    with pytest.raises(DamagedFile, match="some texts have spans"):
        read_labels(path)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('{"text": "a", "label": 1}\nnonsense', "line 2: not valid JSON"),
        ('{"text": "a"}', "line 1: should be"),
        ("3", "line 1: should be"),
        ('{"text": "a", "spans": [[0, 1]]}', "line 1: should be"),
        ('{"text": "abc", "spans": [[0, 4, "x"]]}', "line 1: 'x' spans characters 0 to 4 of a text of 3"),
        ("", "holds no labelled texts"),
    ],
)
def test_damaged_labels(tmp_path, lines, complaint):
    path = tmp_path / "labels.jsonl"
    path.write_text(lines)
    with pytest.raises(DamagedFile, match=complaint) as caught:
        read_labelled(path)
    assert "\n" not in str(caught.value)


def test_what_texts_cannot_be(hooked):
    model = hooked("gpt2")
    with pytest.raises(PromptError, match="no tokens in the text ''"):
        pooled_activations(model, ["the", ""], [SITE])
    with pytest.raises(SettingError, match="pool is 'first'"):
        pooled_activations(model, ["the"], [SITE], pool="first")
    many = [LabelledText("the", spans=tuple((0, 1, str(i)) for i in range(64)))]
    with pytest.raises(CorpusError, match="64 different labels; at most 63"):
        TextCorpus(many, model.tokenizer, 64)
