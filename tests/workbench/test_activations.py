"""Harvested activations are Hugging Face's own, no deeper than asked for, and a stream of them can be resumed."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.checkpoints import byte_tokenizer
from workbench.activations import harvest, shuffled_activations, special_ids
from workbench.corpus import PackedCorpus, Position, open_corpus
from workbench.errors import CorpusError, SettingError, UnknownSite
from workbench.files import read_tensors, write_tensors
from workbench.model import HookedModel

SITE = "blocks.1.hook_resid_post"
SIZES = {"batch_size": 4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    """About 60 contexts of 24 tokens."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "where", "old", "stone", "bridges", "end"]
    lines = (json.dumps({"text": " ".join(rng.choice(words, rng.integers(1, 20)))}) for _ in range(80))
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("\n".join(lines))
    return open_corpus(path, byte_tokenizer(), context=24)


@pytest.fixture
def gpt2(hooked: Callable[[str], HookedModel]) -> HookedModel:
    return hooked("gpt2")


def test_activations_are_the_models_own(model: HookedModel, reference, corpus: PackedCorpus) -> None:
    sites = ["blocks.*.hook_resid_pre", "hook_embed"]
    for batch in islice(harvest(model, corpus, sites, **SIZES), 3):
        with torch.no_grad():
            hidden = reference(batch.tokens, output_hidden_states=True).hidden_states
        for layer in range(3):
            assert torch.allclose(batch.activations[f"blocks.{layer}.hook_resid_pre"], hidden[layer], atol=1e-5)


def test_tokens_and_positions_are_those_of_the_corpus(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    batches = list(harvest(gpt2, corpus, [SITE], **SIZES))
    expected = list(corpus.batches(4))
    assert [batch.position for batch in batches] == [batch.position for batch in expected]
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(batches, expected, strict=True))


def test_heads_lie_side_by_side(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    site = "blocks.1.attn.hook_z"
    batch = next(harvest(gpt2, corpus, [site], **SIZES))
    z = gpt2.run(batch.tokens, capture=[site])[site]
    assert z.shape == (4, 24, 4, 8)
    assert torch.allclose(batch.activations[site], torch.cat(list(z.unbind(2)), dim=-1), atol=1e-6)


@pytest.mark.parametrize(
    ("sites", "layers"),
    [
        (["hook_embed"], 0),
        (["blocks.0.hook_resid_pre"], 0),
        (["blocks.1.hook_resid_mid", "blocks.0.mlp.hook_post"], 1),
        (["blocks.1.hook_resid_post", "blocks.0.hook_resid_post"], 2),
        (["ln_final.hook_normalized"], 3),
    ],
)
def test_the_forward_stops_at_the_deepest_site(
    sites: list[str], layers: int, gpt2: HookedModel, corpus: PackedCorpus
) -> None:
    """A layer counts as run once its MLP has."""
    ran = set()
    handles = [
        gpt2.bridge.blocks[layer].mlp.register_forward_hook(lambda *_, layer=layer: ran.add(layer))
        for layer in range(3)
    ]
    batch = next(harvest(gpt2, corpus, sites, **SIZES))
    for handle in handles:
        handle.remove()
    assert set(batch.activations) == set(sites)
    assert ran == set(range(layers))


def test_n_tokens_counts_tokens_and_not_padding(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    counts = [int(batch.mask().sum()) for batch in corpus.batches(4)]
    assert sum(counts[:3]) < 3 * 4 * 24  # there is padding
    for n, expected in ((sum(counts[:3]), 3), (sum(counts[:3]) + 1, 4), (10**9, len(counts))):
        assert len(list(harvest(gpt2, corpus, [SITE], n_tokens=n, **SIZES))) == expected
    repeated = list(harvest(gpt2, corpus, [SITE], n_tokens=2 * sum(counts), repeat=True, **SIZES))
    assert sum(int(batch.mask().sum()) for batch in repeated) >= 2 * sum(counts)


def test_a_harvest_resumes_exactly(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    whole = list(harvest(gpt2, corpus, [SITE], **SIZES))
    for cut in (1, 5, len(whole) - 1):
        rest = harvest(gpt2, corpus, [SITE], position=Position(*whole[cut - 1].position), **SIZES)
        for one, other in zip(rest, whole[cut:], strict=True):
            assert torch.equal(one.activations[SITE], other.activations[SITE])


def test_rows_leave_out_padding_and_what_is_skipped(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    bos = corpus_bos()
    for batch in harvest(gpt2, corpus, [SITE], **SIZES):
        rows, kept = batch.rows(SITE), batch.rows(SITE, (bos,))
        assert len(rows) == int((batch.documents >= 0).sum())
        assert len(rows) - len(kept) == int(((batch.documents >= 0) & (batch.tokens == bos)).sum())
        assert torch.equal(rows[0], batch.activations[SITE][0, 0])
        assert torch.equal(kept[0], batch.activations[SITE][0, 1])


def corpus_bos() -> int:
    return byte_tokenizer().bos_token_id


def test_what_does_not_fit_is_refused_at_once(gpt2: HookedModel, corpus: PackedCorpus, tmp_path: Path) -> None:
    with pytest.raises(UnknownSite):
        harvest(gpt2, corpus, ["blocks.1.hook_resid_pots"])
    with pytest.raises(SettingError, match="hook_pattern has no activation of its own"):
        harvest(gpt2, corpus, ["blocks.1.attn.hook_pattern"])
    path = tmp_path / "text.txt"
    path.write_text("the cat " * 100)
    with pytest.raises(CorpusError, match="contexts of 65 tokens are too long for a model that reads 64"):
        harvest(gpt2, open_corpus(path, byte_tokenizer(), context=65), [SITE])
    larger = byte_tokenizer()
    larger.add_tokens(["elephant"])
    path.write_text("the elephant")
    with pytest.raises(CorpusError, match="token id 300, but the model knows only those below 300"):
        next(harvest(gpt2, open_corpus(path, larger, context=24), [SITE]))


# Shuffled activations

STREAM = {"rows_per_step": 50, "buffer_rows": 400, "seed": 0, "batch_size": 4}


def sorted_rows(rows: Tensor) -> Tensor:
    return torch.tensor(sorted(rows.tolist()))


def test_a_stream_serves_each_harvested_row_once(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    harvested = torch.cat([batch.rows(SITE) for batch in harvest(gpt2, corpus, [SITE], **SIZES)])
    n = len(harvested) - len(harvested) % 50
    served = list(shuffled_activations(gpt2, corpus, SITE, n_tokens=n, skip_special=False, **STREAM))
    assert all(step.shape == (50, 32) for step in served)
    served = torch.cat(served)
    assert len(served) == n
    known = {tuple(row) for row in harvested.tolist()}
    assert {tuple(row) for row in served.tolist()} <= known
    times = torch.unique(served, dim=0, return_counts=True)[1].max()
    assert times <= torch.unique(harvested, dim=0, return_counts=True)[1].max()
    assert not torch.equal(served, harvested[:n])


def test_a_stream_repeats_a_small_corpus(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    n = sum(int(batch.mask().sum()) for batch in corpus.batches(4))
    served = sum(len(step) for step in shuffled_activations(gpt2, corpus, SITE, n_tokens=3 * n, **STREAM))
    assert 3 * n - 50 < served <= 3 * n


def test_a_stream_leaves_special_tokens_out(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    """At the embedding, a context's first BOS is one known row."""
    bos = next(harvest(gpt2, corpus, ["blocks.0.hook_resid_pre"], **SIZES)).activations["blocks.0.hook_resid_pre"][0, 0]
    counts = {}
    for skip in (True, False):
        stream = shuffled_activations(
            gpt2, corpus, "blocks.0.hook_resid_pre", n_tokens=600, skip_special=skip, **STREAM
        )
        counts[skip] = sum(int((step == bos).all(dim=1).sum()) for step in stream)
    assert counts[True] == 0
    assert counts[False] > 10
    assert special_ids(gpt2.tokenizer) == (corpus_bos(),)
    assert special_ids(None) == ()


@pytest.mark.parametrize("cut", [0, 1, 7, 19])
def test_a_stream_goes_on_exactly_from_a_saved_state(
    cut: int, gpt2: HookedModel, corpus: PackedCorpus, tmp_path: Path
) -> None:
    def stream():
        return shuffled_activations(gpt2, corpus, SITE, n_tokens=1000, **STREAM)

    whole = list(stream())
    assert len(whole) == 20
    first = stream()
    list(islice(first, cut))
    write_tensors(tmp_path / "state.safetensors", first.state())
    second = stream()
    second.restore(read_tensors(tmp_path / "state.safetensors"))
    rest = list(second)
    assert len(rest) == 20 - cut
    assert all(torch.equal(one, other) for one, other in zip(rest, whole[cut:], strict=True))


def test_a_buffer_too_small_for_its_work_is_refused(gpt2: HookedModel, corpus: PackedCorpus) -> None:
    with pytest.raises(SettingError, match=r"a buffer of 145 rows is too small.*a step \(50\) and a batch \(96\)"):
        shuffled_activations(gpt2, corpus, SITE, n_tokens=100, **{**STREAM, "buffer_rows": 145})
    shuffled_activations(gpt2, corpus, SITE, n_tokens=100, **{**STREAM, "buffer_rows": 146})


def test_the_precision_is_the_models(checkpoint: Callable[[str], Path], corpus: PackedCorpus) -> None:
    from workbench.model import wrap_model

    half = AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.bfloat16)
    step = next(shuffled_activations(wrap_model(half, byte_tokenizer()), corpus, SITE, n_tokens=100, **STREAM))
    assert step.dtype == torch.bfloat16
