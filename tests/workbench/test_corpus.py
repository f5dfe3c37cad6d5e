"""Corpora: what is read, in which order, and that reading can stop and go on anywhere."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.checkpoints import byte_tokenizer
from workbench import readers, sources
from workbench.corpus import START, Corpus, PackedCorpus, Position, TokenBatch, open_corpus
from workbench.errors import CorpusError, SettingError

SHARED = Path(__file__).parents[3] / "shared" / "data"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "where", "old", "stone", "bridges", "café", "end", "and", "dogs", "ran"]
N_DOCUMENTS, CONTEXT, BATCH = 60, 32, 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Documents of 1 to 30 words; with the tests' tokenizer, some are longer than a context."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(N_DOCUMENTS)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks in a small corpus."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 500)


def write_txt(texts: list[str], folder: Path) -> Path:
    path = folder / "corpus.txt"
    path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    return path


def write_jsonl(texts: list[str], folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("\n\n".join(json.dumps({"id": 3, "text": text}) for text in texts), encoding="utf-8")
    return path


def write_parquet(texts: list[str], folder: Path) -> Path:
    path = folder / "corpus.parquet"
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=7)
    return path


def save_dataset(texts: list[str], folder: Path) -> Path:
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(folder / "saved")
    return folder / "saved"


def save_dataset_dict(texts: list[str], folder: Path) -> Path:
    held_out = datasets.Dataset.from_dict({"text": ["not this"]})
    both = {"train": datasets.Dataset.from_dict({"text": texts}), "test": held_out}
    datasets.DatasetDict(both).save_to_disk(folder / "splits")
    return folder / "splits"


FORMATS = (write_txt, write_jsonl, write_parquet, save_dataset, save_dataset_dict)


@pytest.fixture
def corpus(texts: list[str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> PackedCorpus:
    return open_corpus(write_jsonl(texts, tmp_path), tokenizer, context=CONTEXT)


@pytest.fixture
def streamed(texts: list[str], tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> PackedCorpus:
    """What a hub id opens, with the hub replaced by a dataset in memory of several shards."""
    stream = datasets.Dataset.from_dict({"text": texts, "id": range(len(texts))}).to_iterable_dataset(num_shards=4)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    return open_corpus("someone/texts", tokenizer, context=CONTEXT)


def tokens_by_document(batches: Iterator[TokenBatch], bos: int) -> dict[int, Counter[int]]:
    """How often each token occurs in each document, BOS aside."""
    found: dict[int, Counter[int]] = {}
    for batch in batches:
        for token, document in zip(batch.tokens[batch.mask((bos,))], batch.documents[batch.mask((bos,))], strict=True):
            found.setdefault(int(document), Counter())[int(token)] += 1
    return found


def same(one: TokenBatch, other: TokenBatch) -> bool:
    labels = one.label_bits is other.label_bits or torch.equal(one.label_bits, other.label_bits)
    return (
        torch.equal(one.tokens, other.tokens)
        and torch.equal(one.documents, other.documents)
        and labels
        and one.position == other.position
    )


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_every_document(
    write: Callable, texts: list[str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    corpus = open_corpus(write(texts, tmp_path), tokenizer, context=CONTEXT)
    assert isinstance(corpus, Corpus)
    found = tokens_by_document(corpus.batches(BATCH), tokenizer.bos_token_id)
    separator = "\n" if write is write_txt else ""  # the line end before a separator belongs to the document
    for number, text in enumerate(texts):
        ending = separator if number < len(texts) - 1 else ""
        assert found.pop(number) == Counter(tokenizer(text + ending)["input_ids"])
    assert not found


def test_a_stream_gives_every_document(streamed, texts, tokenizer) -> None:
    found = tokens_by_document(streamed.batches(BATCH), tokenizer.bos_token_id)
    expected = [Counter(tokenizer(text)["input_ids"]) for text in texts]
    assert sorted(found) == list(range(N_DOCUMENTS))
    assert sorted(map(sorted, (c.items() for c in found.values()))) == sorted(
        map(sorted, (c.items() for c in expected))
    )


def test_every_context_and_document_begins_with_bos(corpus, tokenizer) -> None:
    for batch in corpus.batches(BATCH):
        begins = torch.diff(batch.documents, prepend=torch.full((len(batch.tokens), 1), -2)) != 0
        begins &= batch.documents >= 0
        assert begins[:, 0].all()
        assert (batch.tokens[begins] == tokenizer.bos_token_id).all()
        assert (batch.tokens[~begins & batch.mask()] != tokenizer.bos_token_id).all()


def test_bos_can_be_left_out(texts, tokenizer, tmp_path) -> None:
    corpus = open_corpus(write_jsonl(texts, tmp_path), tokenizer, context=CONTEXT, bos=False)
    n = sum(int(batch.mask().sum()) for batch in corpus.batches(BATCH))
    assert n == sum(len(tokenizer(text)["input_ids"]) for text in texts)


@pytest.mark.parametrize("kind", ["corpus", "streamed"])
@pytest.mark.parametrize("repeat", [False, True])
def test_resuming_anywhere_equals_not_stopping(kind: str, repeat: bool, request: pytest.FixtureRequest) -> None:
    corpus = request.getfixturevalue(kind)
    n = 55 if repeat else None  # into the third epoch
    whole = list(islice(corpus.batches(BATCH, repeat=repeat), n))
    assert whole[-1].position.epoch == (2 if repeat else 0)
    assert len({batch.position.block for batch in whole}) > 3
    for cut in range(1, len(whole) + 1, 4 if repeat else 1):
        position = Position(*json.loads(json.dumps(whole[cut - 1].position)))
        rest = list(islice(corpus.batches(BATCH, position, repeat=repeat), n and n - cut))
        assert len(rest) == len(whole) - cut
        assert all(map(same, rest, whole[cut:]))


def test_resuming_in_a_corpus_opened_anew(texts, tokenizer, tmp_path) -> None:
    path = write_parquet(texts, tmp_path)
    whole = list(open_corpus(path, tokenizer, context=CONTEXT, seed=3).batches(BATCH))
    again = open_corpus(path, tokenizer, context=CONTEXT, seed=3).batches(BATCH, whole[7].position)
    assert all(map(same, again, whole[8:]))


def test_all_batches_but_the_last_are_full(corpus) -> None:
    sizes = [len(batch.tokens) for batch in corpus.batches(BATCH)]
    assert set(sizes[:-1]) == {BATCH}
    assert 1 <= sizes[-1] <= BATCH


def test_epochs_hold_the_same_in_another_order(corpus, tokenizer) -> None:
    epochs: dict[int, list[TokenBatch]] = {}
    for batch in takewhile(lambda batch: batch.position.epoch < 2, corpus.batches(1, repeat=True)):
        epochs.setdefault(batch.position.epoch, []).append(batch)
    first, second = (tokens_by_document(iter(epochs[epoch]), tokenizer.bos_token_id) for epoch in (0, 1))
    assert first == second
    assert not torch.equal(epochs[0][0].tokens, epochs[1][0].tokens)


def test_the_seed_decides_the_order(texts, tokenizer, tmp_path) -> None:
    path = write_jsonl(texts, tmp_path)
    order = [
        [int(batch.documents[0, 0]) for batch in open_corpus(path, tokenizer, context=CONTEXT, seed=seed).batches(1)]
        for seed in (0, 0, 1)
    ]
    assert order[0] == order[1] != order[2]


def test_a_text_is_tokenised_once(texts, tokenizer, tmp_path, monkeypatch) -> None:
    asked: list[str] = []
    encode = sources.Encoder.__call__
    monkeypatch.setattr(sources.Encoder, "__call__", lambda self, batch: asked.extend(batch) or encode(self, batch))
    corpus = open_corpus(write_jsonl(texts, tmp_path), tokenizer, context=CONTEXT)
    list(islice(corpus.batches(BATCH, repeat=True), 100))
    list(corpus.batches(BATCH))
    assert sorted(asked) == sorted(texts)


def test_the_memory_of_tokens_is_bounded(texts, tokenizer, tmp_path, monkeypatch) -> None:
    corpus = open_corpus(write_jsonl(texts, tmp_path), tokenizer, context=CONTEXT)
    expected = list(corpus.batches(BATCH))
    monkeypatch.setattr(sources, "CACHE_TOKENS", 0)
    forgetful = open_corpus(write_jsonl(texts, tmp_path), tokenizer, context=CONTEXT)
    assert all(map(same, forgetful.batches(BATCH), expected))
    assert all(map(same, forgetful.batches(BATCH), expected))


def test_fingerprints_tell_corpora_apart(texts, tokenizer, tmp_path) -> None:
    path = write_jsonl(texts, tmp_path)
    other_file = tmp_path / "other.jsonl"
    other_file.write_text(path.read_text(encoding="utf-8").replace("cat", "cow"), encoding="utf-8")
    other_tokenizer = byte_tokenizer()
    other_tokenizer.add_tokens(["bridge"])

    def fingerprint(path=path, tokenizer=tokenizer, **settings) -> str:
        return open_corpus(path, tokenizer, **{"context": CONTEXT, **settings}).fingerprint

    different = [
        fingerprint(),
        fingerprint(other_file),
        fingerprint(tokenizer=other_tokenizer),
        fingerprint(context=64),
        fingerprint(seed=1),
        fingerprint(bos=False),
    ]
    assert len(set(different)) == len(different)
    tokenizer("a text", truncation=True, max_length=2)  # leaves a trace in the tokenizer, but changes no token
    assert fingerprint() == different[0]


def test_texts_beyond_the_models_length_are_no_cause_for_warnings(tokenizer, tmp_path, caplog, recwarn) -> None:
    tokenizer.model_max_length = 8
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": "cat " * 500}))
    n = sum(int(batch.mask((tokenizer.bos_token_id,)).sum()) for batch in open_corpus(path, tokenizer).batches(2))
    assert n == len(tokenizer("cat " * 500, verbose=False)["input_ids"])
    assert not caplog.records
    assert not recwarn.list


def test_wikitext_with_the_tokenizer_of_gpt2(monkeypatch) -> None:
    monkeypatch.undo()  # blocks of the usual size
    if not SHARED.is_dir():
        pytest.skip("the WikiText-2 text and the GPT-2 tokenizer are not here")
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "gpt2-tokenizer")
    path = SHARED / "wikitext-2" / "valid.txt"
    text = path.read_text(encoding="utf-8")
    titles = [line for line in text.splitlines() if line.startswith(" = ") and not line.startswith(" = =")]
    corpus = open_corpus(path, tokenizer)
    documents, n = set(), 0
    for batch in corpus.batches(32):
        documents.update(batch.documents[batch.mask()].tolist())
        n += int(batch.mask((tokenizer.bos_token_id,)).sum())
    assert len(documents) == len(titles) + 1  # the blank line before the first
    assert abs(n - len(tokenizer(text, verbose=False)["input_ids"])) <= len(titles)


def test_the_digest_of_a_large_file_is_of_evenly_spaced_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "_BLOCK", 10)
    monkeypatch.setattr(readers, "_BLOCKS", 4)
    path = tmp_path / "file"

    def digest(content: bytes) -> str:
        path.write_bytes(content)
        return readers.file_digest(path)

    def changed(size: int) -> list[int]:
        """The bytes whose change is noticed."""
        zeros = digest(bytes(size))
        return [at for at in range(size) if digest(bytes(at) + b"1" + bytes(size - at - 1)) != zeros]

    assert changed(33) == list(range(33))
    assert changed(40) == list(range(40))
    assert changed(100) == [start + i for start in (0, 30, 60, 90) for i in range(10)]
    assert digest(bytes(100)) != digest(bytes(101))


def test_a_long_text_without_boundaries_is_cut_at_line_ends(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "LONGEST", 20)
    path = tmp_path / "book.txt"
    path.write_text("one line of text\n" * 5 + "no line end from here on, however long it may be")
    pieces = readers.read_txt(path).to_pylist()
    assert pieces == ["one line of text\n" * 2, "one line of text\n" * 2, "one line of text\n" + path.read_text()[-48:]]


# Tinytown


def test_tinytown_is_read_with_its_labels() -> None:
    from workbench.tinytown.concepts import CONCEPTS
    from workbench.tinytown.language import Language

    corpus = open_corpus("tinytown", seed=4)
    batch = next(corpus.batches(64))
    assert corpus.concepts == CONCEPTS
    assert batch.labels.shape == (64, 128, len(CONCEPTS))
    chunk = next(Language().chunks(4))
    checked = 0
    for row in range(64):
        for number in batch.documents[row].unique().tolist():
            here, there = batch.documents[row] == number, chunk.document == number
            if number >= 0 and there.sum() <= 128:
                assert batch.tokens[row, here].tolist() == chunk.tokens[there].tolist()
                bits = (chunk.labels[there][:, None] >> np.arange(len(CONCEPTS), dtype=np.uint64)) & np.uint64(1)
                assert np.array_equal(batch.labels[row, here].numpy(), bits.astype(bool))
                checked += 1
    assert checked > 64
    assert not batch.labels[~batch.mask()].any()


def test_tinytown_resumes_and_has_a_held_out_split() -> None:
    corpus = open_corpus("tinytown")
    whole = list(islice(corpus.batches(200), 4))
    assert whole[-1].position.block > 0
    for cut in (1, 3):
        assert all(map(same, whole[cut:], corpus.batches(200, whole[cut - 1].position)))
    held_out = open_corpus("tinytown", split="held_out")
    assert not torch.equal(next(held_out.batches(200)).tokens, whole[0].tokens)
    assert held_out.fingerprint != corpus.fingerprint


# Bad input


def broken(folder: Path) -> dict[str, Path]:
    files = {
        "empty.txt": b"",
        "blank.jsonl": b"\n\n",
        "latin.txt": b"caf\xe9",
        "latin.jsonl": b'{"text": "caf\xe9"}',
        "invalid.jsonl": b'{"text": "one"}\n\n{"text": "two"\n',
        "fieldless.jsonl": b'{"text": "one"}\n{"body": "two"}\n',
        "list.jsonl": b"[1]\n",
        "number.jsonl": b'{"text": 5}\n',
        "foreign.parquet": b"PAR1 nothing of the kind",
        "image.png": b"\x89PNG",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.table({"body": ["a"]}), folder / "columnless.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), folder / "numbers.parquet")
    whole = write_parquet(["a text"] * 100, folder).read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "no-dataset").mkdir()
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.txt", "is empty"),
        ("blank.jsonl", "is empty"),
        ("latin.txt", "not UTF-8 text: byte 3"),
        ("latin.jsonl", "line 1: not UTF-8 text: byte 13"),
        ("invalid.jsonl", "line 3: not valid JSON"),
        ("fieldless.jsonl", "line 2: no \"text\" field; it has 'body'"),
        ("list.jsonl", "line 1: a JSON object"),
        ("number.jsonl", 'line 1: "text" must be a string, not int'),
        ("foreign.parquet", "is truncated or not a Parquet file"),
        ("cut.parquet", "is truncated or not a Parquet file"),
        ("columnless.parquet", "has no column \"text\"; it has 'body'"),
        ("numbers.parquet", 'the column "text" must hold strings, not int64'),
        ("image.png", "a .txt, .jsonl or .parquet file is needed"),
        ("no-dataset", "is not a directory saved by `datasets`"),
        ("missing.txt", "there is no file"),
    ],
)
def test_bad_files_are_refused_in_one_line(name: str, message: str, tokenizer, tmp_path) -> None:
    path = broken(tmp_path).get(name, tmp_path / name)
    with pytest.raises(CorpusError) as error:
        open_corpus(path, tokenizer)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_without_tokens_is_an_empty_corpus(tmp_path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path / "spaces.txt"
    path.write_text("   \n \n")
    corpus = open_corpus(path, PreTrainedTokenizerFast(tokenizer_object=core))
    with pytest.raises(CorpusError, match="is empty"):
        next(corpus.batches(2, repeat=True))


def test_an_unreachable_hub_is_one_line(tokenizer, monkeypatch) -> None:
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nand more lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(CorpusError, match=r"^cannot open corpus 'no/such': .*\(Couldn't reach the Hub\)$"):
        open_corpus("no/such", tokenizer)


@pytest.mark.parametrize("source", ["./nowhere", "a b", "/no/such/folder", "folder/text.jsonl"])
def test_what_cannot_be_a_dataset_id_is_a_missing_file(source: str, tokenizer) -> None:
    with pytest.raises(CorpusError, match="there is no file"):
        open_corpus(source, tokenizer)


def test_a_stream_without_a_text_column(tokenizer, monkeypatch) -> None:
    stream = datasets.Dataset.from_dict({"body": ["a"]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    with pytest.raises(CorpusError, match="no column \"text\"; it has 'body'"):
        open_corpus("someone/texts", tokenizer)


def test_settings_that_make_no_sense(texts, tokenizer, tmp_path) -> None:
    path = write_jsonl(texts, tmp_path)
    with pytest.raises(CorpusError, match="no split 'test'"):
        open_corpus(path, tokenizer, split="test")
    with pytest.raises(CorpusError, match="takes a tokenizer"):
        open_corpus(path)
    with pytest.raises(SettingError, match="at least 2"):
        open_corpus(path, tokenizer, context=1)
    with pytest.raises(SettingError, match="seed"):
        open_corpus(path, tokenizer, seed=-1)
    with pytest.raises(CorpusError, match="'train' and 'held_out'"):
        open_corpus("tinytown", split="test")
    with pytest.raises(CorpusError, match="tinytown corpus fits only"):
        open_corpus("tinytown", tokenizer)
    without_bos = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(CorpusError, match="no BOS"):
        open_corpus(path, without_bos, bos=True)
    assert next(open_corpus(path, without_bos).batches(1, START)).tokens[0, 0] != tokenizer.bos_token_id
