"""An index of a real model and text, by an SAE whose latents are known: latent j fires on token j and no other."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from saes.architectures import ARCHITECTURES
from saes.index.build import build_index
from saes.index.feature_index import FeatureIndex
from saes.sae import SAE, SAEConfig
from tests.checkpoints import TEXT, VOCABULARY
from workbench.activations import special_ids
from workbench.corpus import START, Corpus, Position, TokenBatch, open_corpus
from workbench.errors import CorpusError, DamagedFile, SettingError
from workbench.model import HookedModel

CONCEPTS = ("is the cat", "is a dot", "never")


@dataclass(frozen=True)
class Labelled:
    """A corpus, with labels that depend on the token: two tokens are the cat, one is the dot."""

    corpus: Corpus
    cats: tuple[int, int]
    dot: int
    concepts: tuple[str, ...] = CONCEPTS

    @property
    def name(self) -> str:
        return self.corpus.name

    @property
    def context(self) -> int:
        return self.corpus.context

    @property
    def endless(self) -> bool:
        return False

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    def batches(self, batch_size: int, position: Position = START, repeat: bool = False) -> Iterator[TokenBatch]:
        for batch in self.corpus.batches(batch_size, position, repeat):
            bits = torch.isin(batch.tokens, torch.tensor(self.cats)).long() + 2 * (batch.tokens == self.dot)
            yield replace(batch, concepts=self.concepts, label_bits=bits)


@pytest.fixture(scope="module")
def llama(hooked: Callable[[str], HookedModel]) -> HookedModel:
    return hooked("llama")


@pytest.fixture(scope="module")
def sae(llama: HookedModel) -> SAE:
    """The top one of 2 x · e_j - |e_j|² = |x|² - |x - e_j|²: the nearest embedding, with |e_j|² at e_j itself."""
    embedding = llama.W_E.detach()
    sae = ARCHITECTURES["topk"](SAEConfig(32, VOCABULARY, k=1, metadata={"hook_name": "hook_embed"}))
    with torch.no_grad():
        sae.W_enc.copy_(2 * embedding.T)
        sae.b_enc.copy_(-embedding.square().sum(1))
        sae.W_dec.copy_(embedding)
    assert torch.equal(sae.encode(embedding) > 0, torch.eye(VOCABULARY).bool())
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def corpus(llama: HookedModel, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    generator = torch.Generator().manual_seed(0)
    words = TEXT.split()
    path.write_text(
        "\n\n".join(" ".join(words[i] for i in torch.randperm(len(words), generator=generator)) for _ in range(40))
    )
    ids = llama.tokenizer.encode(" cat dog.", add_special_tokens=False)
    return Labelled(open_corpus(path, llama.tokenizer, context=16), cats=(ids[0], ids[1]), dot=ids[-1])


@pytest.fixture(scope="module")
def tokens(llama: HookedModel, corpus: Labelled) -> list[int]:
    """Every token that counts."""
    skip = special_ids(llama.tokenizer)
    return [token for batch in corpus.batches(32) for token in batch.tokens[batch.mask(skip)].tolist()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sae")


@pytest.fixture(scope="module")
def index(sae: SAE, llama: HookedModel, corpus: Labelled, directory: Path) -> FeatureIndex:
    return build_index(sae, llama, corpus, n_tokens=10**9, out=directory)


def test_the_summary_says_what_was_read(index: FeatureIndex, tokens: list[int], llama: HookedModel, corpus: Labelled):
    summary = index.summary
    counts = Counter(tokens)
    assert summary.n_tokens == summary.coactivation_tokens == len(tokens)
    assert summary.n_dead == VOCABULARY - len(counts)
    assert summary.l0 == 1.0
    assert summary.model_fingerprint == llama.fingerprint
    assert summary.corpus_fingerprint == corpus.fingerprint
    assert summary.concepts == {
        "is the cat": counts[corpus.cats[0]] + counts[corpus.cats[1]], "is a dot": counts[corpus.dot], "never": 0,
    }  # fmt: skip


def test_density_and_activation_of_every_latent(index: FeatureIndex, tokens: list[int], sae: SAE):
    counts = Counter(tokens)
    size = sae.W_dec.square().sum(1).tolist()
    page = index.table(sort="latent", descending=False, limit=VOCABULARY)
    assert page.total == VOCABULARY
    for row in page.rows:
        n = counts[row["latent"]]
        assert row["n_active"] == n
        assert row["density"] == pytest.approx(n / len(tokens))
        assert row["maximum"] == pytest.approx(size[row["latent"]] if n else 0, rel=1e-3)
        assert row["mean"] == pytest.approx(size[row["latent"]] if n else 0, rel=1e-3)


def test_a_latent_shows_its_token(index: FeatureIndex, tokens: list[int], llama: HookedModel, corpus: Labelled):
    latent = corpus.cats[0]
    record = index.latent(latent)
    assert sum(record.histogram) == record.n_active == tokens.count(latent)
    assert sum(band.n_tokens for band in record.bands) == record.n_active
    assert record.bands[-1].low <= record.maximum < record.bands[-1].high
    assert record.examples
    for example in record.examples:
        assert [value > 0 for value in example.activations] == [token == latent for token in example.tokens]
        assert example.tokens[example.peak] == latent
        assert example.strings == llama.token_strings(example.tokens)
        assert len(example.documents) == len(example.tokens)
    assert record.coactive == []
    dead = next(j for j in range(VOCABULARY) if j not in tokens)
    assert index.latent(dead).examples == index.latent(dead).histogram == index.latent(dead).bands == []


def test_logits_are_those_of_the_direction_through_the_norm(index: FeatureIndex, sae: SAE, llama: HookedModel):
    for latent in (3, 77):
        direction = sae.W_dec[latent]
        normed = direction / direction.square().mean().sqrt() * llama.bridge.ln_final.weight
        effect = normed @ llama.W_U
        effect = effect - effect.mean()
        record = index.latent(latent)
        top, bottom = effect.topk(10), effect.topk(10, largest=False)
        for logits, expected in ((record.top_logits, top), (record.bottom_logits, bottom)):
            assert [logit.token for logit in logits] == expected.indices.tolist()
            assert [logit.effect for logit in logits] == pytest.approx(expected.values.tolist(), abs=1e-3)
            assert [logit.string for logit in logits] == llama.token_strings(expected.indices)


def test_neighbours_are_the_nearest_decoder_rows(index: FeatureIndex, sae: SAE):
    cosine = torch.nn.functional.cosine_similarity(sae.W_dec[5], sae.W_dec, dim=1)
    cosine[5] = -1
    expected = cosine.topk(10)
    neighbours = index.latent(5).neighbours
    assert [neighbour.latent for neighbour in neighbours] == expected.indices.tolist()
    assert [neighbour.cosine for neighbour in neighbours] == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_concepts(index: FeatureIndex, tokens: list[int], corpus: Labelled):
    counts = Counter(tokens)
    first, second = corpus.cats
    score = index.latent(first).concepts[0]
    both = counts[first] + counts[second]
    recall = counts[first] / both
    assert (score.concept, score.latent, score.threshold) == ("is the cat", first, 0)
    assert (score.precision, score.recall) == (1, pytest.approx(recall))
    assert score.f1 == score.f1_at_zero == pytest.approx(2 * recall / (1 + recall))
    coverage = index.coverage(f1=1.0)
    assert coverage.n_concepts == 2
    assert [(score.concept, score.latent) for score in coverage.covered] == [("is a dot", corpus.dot)]
    assert coverage.share == 0.5
    assert str(coverage).startswith("1 of 2 concepts (50%)")
    lowest = min(counts[first], counts[second]) / both
    assert index.coverage(f1=2 * lowest / (1 + lowest)).share == 1.0


def test_the_table_filters_sorts_and_pages(index: FeatureIndex, tokens: list[int], corpus: Labelled):
    counts = Counter(tokens)
    expected = sorted(counts, key=lambda token: (-counts[token], token))
    alive = {"maximum": (1e-6, None)}
    assert [row["latent"] for row in index.table(**alive, limit=9).rows] == expected[:9]
    second = index.table(**alive, limit=4, offset=4)
    assert [row["latent"] for row in second.rows] == expected[4:8]
    assert second.total == len(counts)
    beyond = index.table(**alive, offset=10**6)
    assert (beyond.rows, beyond.total) == ([], len(counts))
    low, high = 3 / len(tokens), 9 / len(tokens)
    page = index.table(density=(low - 1e-9, high + 1e-9), limit=VOCABULARY)
    assert {row["latent"] for row in page.rows} == {token for token in counts if 3 <= counts[token] <= 9}
    cats = index.table(concept="is the cat", sort="f1")
    assert {row["latent"] for row in cats.rows} == set(corpus.cats)
    assert {row["concept"] for row in cats.rows} == {"is the cat"}
    assert index.table(concept="is the cat", f1=(0.999, None)).total == 0
    assert index.table(concept="never").total == 0


def test_search_finds_firing_tokens_promoted_tokens_and_concepts(index: FeatureIndex, llama: HookedModel):
    def found(text: str) -> set[int]:
        return {row["latent"] for row in index.table(search=text, limit=VOCABULARY).rows}

    assert found("IS THE C") == {row["latent"] for row in index.table(concept="is the cat").rows}
    latent = next(row["latent"] for row in index.table(limit=9).rows if row["peaks"][0].strip().isalpha())
    assert latent in found(index.latent(latent).top_examples[0].strings[index.latent(latent).top_examples[0].peak])
    promoted = index.latent(latent).top_logits[0].string
    assert promoted.strip() == "" or latent in found(promoted)
    assert found("no token reads like this") == set()
    assert found("'; DROP TABLE latents; --") == set()
    assert index.table().total == VOCABULARY
    assert found("%") == {j for j in found("%") if any("%" in text for text in _texts(index, j))}


def _texts(index: FeatureIndex, latent: int) -> list[str]:
    record = index.latent(latent)
    fired = [example.strings[example.peak] for example in record.top_examples]
    return fired + [logit.string for logit in record.top_logits] + [score.concept for score in record.concepts]


def test_bad_questions_are_refused(index: FeatureIndex):
    with pytest.raises(SettingError, match="cannot be sorted by 'latent; DROP"):
        index.table(sort="latent; DROP TABLE latents")
    with pytest.raises(SettingError, match="no concept 'dogs'"):
        index.table(concept="dogs")
    with pytest.raises(SettingError, match="0 to 299"):
        index.latent(300)
    with pytest.raises(SettingError, match="offset"):
        index.table(offset=-1)


def test_the_same_seed_writes_the_same_index(sae, llama, corpus, index: FeatureIndex, tmp_path: Path):
    again = build_index(sae, llama, corpus, n_tokens=10**9, out=tmp_path, batch_size=5)
    assert again.summary == index.summary
    for latent in (*corpus.cats, corpus.dot, 0):
        assert again.latent(latent) == index.latent(latent)


def test_a_failed_write_leaves_the_old_index(sae, llama, corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build_index(sae, llama, corpus, n_tokens=100, out=tmp_path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saes.index.storage.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        build_index(sae, llama, corpus, n_tokens=10**9, out=tmp_path)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["features"]
    assert FeatureIndex.open(tmp_path).summary.n_tokens < 1000


def test_damaged_indexes_are_named(directory: Path, index: FeatureIndex, tmp_path: Path):
    with pytest.raises(DamagedFile, match="has no feature index"):
        FeatureIndex.open(tmp_path)
    for name in ("latents", "examples"):
        copy = tmp_path / name
        shutil.copytree(directory, copy)
        path = copy / "features" / f"{name}.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DamagedFile, match=f"{name}.parquet is truncated"):
            FeatureIndex.open(copy)
        path.unlink()
        with pytest.raises(DamagedFile, match=f"{name}.parquet is missing"):
            FeatureIndex.open(copy)
    (copy / "features" / "index.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DamagedFile, match="format 1"):
        FeatureIndex.open(copy)


def test_an_sae_that_does_not_fit_is_refused(llama: HookedModel, corpus: Labelled, tmp_path: Path):
    narrow = ARCHITECTURES["standard"](SAEConfig(8, 16, metadata={"hook_name": "blocks.0.hook_resid_post"}))
    with pytest.raises(SettingError, match="takes 8 dimensions"):
        build_index(narrow, llama, corpus, n_tokens=10, out=tmp_path)
    with pytest.raises(SettingError, match="at least 1"):
        build_index(narrow, llama, corpus, n_tokens=0, out=tmp_path)
    nowhere = ARCHITECTURES["standard"](SAEConfig(32, 16))
    with pytest.raises(SettingError, match="does not say at which site"):
        build_index(nowhere, llama, corpus, n_tokens=10, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_a_topk_sae_in_a_deeper_layer(hooked, architecture: str, corpus: Labelled, tmp_path: Path):
    model = hooked(architecture)
    config = SAEConfig(32, 64, k=5, metadata={"hook_name": "blocks.1.hook_resid_post"})
    sae = ARCHITECTURES["topk"](config)
    skip = special_ids(model.tokenizer)
    rows, unlabelled = [], corpus.corpus
    for batch in unlabelled.batches(32):
        run = model.run(batch.tokens, capture=[sae.site], stop_after=sae.site)
        rows.append(run[sae.site][batch.mask(skip)])
    sae = sae.initialise(torch.cat(rows).mean(0), seed=0).requires_grad_(False)
    dense = sae.encode(torch.cat(rows))
    index = build_index(sae, model, unlabelled, n_tokens=10**9, out=tmp_path)
    table = index.table(sort="latent", descending=False, limit=64).rows
    assert [row["n_active"] for row in table] == (dense > 0).sum(0).tolist()
    assert [row["maximum"] for row in table] == pytest.approx(dense.max(0).values.tolist(), rel=1e-4)
    latent = max(table, key=lambda row: row["n_active"])["latent"]
    record = index.latent(latent)
    assert record.mean == pytest.approx((dense[:, latent].sum() / (dense[:, latent] > 0).sum()).item(), rel=1e-4)
    assert record.top_examples[0].maximum == pytest.approx(dense[:, latent].max().item(), rel=1e-4)
    assert record.coactive
    partner = record.coactive[0]
    assert partner.together == ((dense[:, latent] > 0) & (dense[:, partner.latent] > 0)).sum()
    assert len(record.top_logits) == len(record.bottom_logits) == 10
    assert (record.concepts, index.report().coverage) == ([], None)
    assert str(index).startswith("64 latents at blocks.1.hook_resid_post")


MLP_OUT = "blocks.0.hook_mlp_out"


def test_a_transcoder_is_indexed_by_what_it_reads_and_writes(llama, sae: SAE, corpus: Labelled, tmp_path: Path):
    """It fires as the SAE that reads the same, and its logit effects are those of its directions where it writes."""
    config = SAEConfig(32, VOCABULARY, k=1, apply_b_dec_to_input=False, d_out=32)
    metadata = {"hook_name": "hook_embed", "hook_name_out": MLP_OUT}
    transcoder = ARCHITECTURES["topk_transcoder"](replace(config, metadata=metadata))
    with torch.no_grad():
        transcoder.W_enc.copy_(sae.W_enc)
        transcoder.b_enc.copy_(sae.b_enc)
        transcoder.W_dec.copy_(llama.W_U.T)
    ours, plain = (
        build_index(one, llama, corpus, n_tokens=10**9, out=tmp_path / name)
        for name, one in (("transcoder", transcoder.requires_grad_(False)), ("sae", sae))
    )
    columns = ("n_active", "maximum", "concept", "f1", "peaks")
    for row, same in zip(ours.table(limit=50).rows, plain.table(limit=50).rows, strict=True):
        assert [row[name] for name in columns] == [same[name] for name in columns]
    assert ours.summary.site == f"hook_embed → {MLP_OUT}"
    expected = _effects(llama, transcoder.W_dec[7])
    assert [logit.token for logit in ours.latent(7).top_logits] == expected.topk(10).indices.tolist()


def test_a_crosscoders_logit_effects_are_those_at_its_last_site(llama, sae: SAE, corpus: Labelled, tmp_path: Path):
    """It reads embeddings at two sites: where the first says nothing, it fires as the SAE does."""
    config = SAEConfig(64, VOCABULARY, apply_b_dec_to_input=False, widths=(32, 32))
    crosscoder = ARCHITECTURES["crosscoder"](replace(config, metadata={"hook_names": [MLP_OUT, "hook_embed"]}))
    with torch.no_grad():
        crosscoder.W_enc[32:] = sae.W_enc
        crosscoder.b_enc.copy_(sae.b_enc)
        crosscoder.W_dec.normal_(generator=torch.Generator().manual_seed(0))
    index = build_index(crosscoder.requires_grad_(False), llama, corpus, n_tokens=10**9, out=tmp_path)
    rows = index.table(sort="latent", descending=False, limit=VOCABULARY).rows
    alike = llama.W_E @ crosscoder.W_enc[32:] + crosscoder.b_enc > 0
    tokens = torch.cat([batch.tokens[batch.mask(special_ids(llama.tokenizer))] for batch in corpus.batches(32)])
    assert [row["n_active"] for row in rows] == alike[tokens].sum(0).tolist()
    expected = _effects(llama, crosscoder.W_dec[7, 32:])
    assert [logit.token for logit in index.latent(7).top_logits] == expected.topk(10).indices.tolist()


def _effects(model: HookedModel, direction: torch.Tensor) -> torch.Tensor:
    """What the direction, scaled to root mean square 1, adds to the logits of a model whose norm has no bias."""
    hf = model.bridge.original_model
    with torch.no_grad():
        return hf.lm_head(hf.model.norm(direction / direction.square().mean().sqrt()))


def test_an_empty_corpus_says_so(sae: SAE, llama: HookedModel, corpus: Labelled, tmp_path: Path):
    class Nothing(Labelled):
        def batches(self, *args: object, **kwargs: object) -> Iterator[TokenBatch]:
            return iter(())

    with pytest.raises(CorpusError, match="holds no text"):
        build_index(sae, llama, Nothing(**vars(corpus)), n_tokens=10, out=tmp_path)
