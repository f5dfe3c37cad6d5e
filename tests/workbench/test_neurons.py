"""What a pass over a corpus tells of neurons, against brute force over everything that was read."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from workbench.activations import harvest
from workbench.corpus import START, TokenBatch, open_corpus
from workbench.errors import ModelError, SettingError
from workbench.extremes import ALIKE, BEFORE, ExtremesPool
from workbench.memories import memories
from workbench.model import HookedModel, load_model, wrap_model
from workbench.neuron_pages import neuron_page, neuron_table
from workbench.neurons import neuron_activity
from workbench.promotion import strongest_effects
from workbench.unit_activity import ActivityGatherer

N_UNITS, POS = 5, 12
TEXT = "The cat sat on the mat, and the dog ran after the cat. Where is the café? Near the old bridge.\n" * 40


def random_batches(n: int, seed: int = 0) -> list[tuple[TokenBatch, torch.Tensor, torch.Tensor]]:
    """Batches of four contexts of few different tokens, so that readings repeat; the last tokens are padding."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(n):
        tokens = torch.randint(0, 2, (4, POS), generator=generator)
        documents = torch.zeros(4, POS, dtype=torch.long)
        documents[3, POS - 2 :] = -1
        batch = TokenBatch(tokens, documents, START)
        values = torch.randn(4, POS, N_UNITS, generator=generator) * torch.tensor([1.0, 30.0, 0.01, 1.0, 0.0])
        values[..., 3] = values[..., 3].relu()
        batches.append((batch, values, batch.mask((1,)) | (tokens == 1) & batch.mask() & (torch.arange(POS) % 3 > 0)))
    return batches


def brute_extremes(batches, unit: int, n: int, sign: int) -> list[float]:
    """The peaks of all contexts, the furthest first, each reading once."""
    peaks = []
    for batch, values, counted in batches:
        for row in range(len(batch.tokens)):
            trace = (sign * values[row, :, unit]).masked_fill(~counted[row], -torch.inf)
            at = int(trace.argmax())
            reading = tuple(batch.tokens[row, max(0, at + 1 - ALIKE) : at + 1].tolist())
            peaks.append((-trace[at].item(), reading))
    best: dict[tuple, float] = {}
    for height, reading in sorted(peaks, key=lambda peak: peak[0]):
        best.setdefault(reading, -sign * height)
    return list(best.values())[:n]


@pytest.mark.parametrize("sign", [1, -1])
def test_extremes_are_those_of_a_full_sort(sign: int):
    batches = random_batches(12)
    pool = ExtremesPool(N_UNITS, 6, sign)
    for batch in batches:
        pool.update(*batch)
    result = pool.result()
    for unit in (0, 1, 2, 3):
        assert result.values[unit].tolist() == pytest.approx(brute_extremes(batches, unit, 6, sign))
    assert torch.equal(result.activations[:, :, BEFORE], result.values)
    text = {tuple(row.tolist()) for batch, _, _ in batches for row in batch.tokens}
    for window in result.tokens[0]:
        inside = window >= 0
        assert any(str(window[inside].tolist())[1:-1] in str(list(row))[1:-1] for row in text)


def test_moments_and_histograms_are_exact():
    gatherer, batches = ActivityGatherer("site", N_UNITS, 3), random_batches(10, seed=1)
    for batch, values, counted in batches:
        gatherer.update(batch, values, counted)
    result = gatherer.result(lambda tokens: [str(token) for token in tokens.tolist()])
    rows = torch.cat([values[counted] for _, values, counted in batches]).double()
    assert result.n_tokens == len(rows)
    torch.testing.assert_close(result.mean.double(), rows.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.deviation.double(), rows.std(0, unbiased=False), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.positive.double(), (rows > 0).double().mean(0), atol=1e-6, rtol=0)
    for unit in range(4):
        edges = result.edges(unit)
        expected = [((rows[:, unit] >= low) & (rows[:, unit] < high)).sum() for low, high in pairwise(edges)]
        below = len(edges) // 2  # bins below zero hold their upper edge, as they mirror those above
        assert result.counts[unit, below:].tolist() == [int(n) for n in expected[below:]]
        assert result.counts[unit].sum() == len(rows)
        assert np.abs(rows[:, unit]).max() * 2 >= edges[-1] > np.abs(rows[:, unit]).max()


def test_every_architecture(model: HookedModel, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    corpus = open_corpus(tmp_path / "text.txt", model.tokenizer, context=16)
    if model.info.n_experts:
        with pytest.raises(ModelError, match="a mixture of 4 experts"):
            neuron_activity(model, corpus, [1])
        return
    result = neuron_activity(model, corpus, [1, 2], n_tokens=600, n_examples=3, batch_size=4)
    rows = torch.cat(
        [
            batch.rows("blocks.2.mlp.hook_post", (0,))
            for batch in harvest(model, corpus, ["blocks.2.mlp.hook_post"], batch_size=4)
        ]
    )
    rows = rows[: result[2].n_tokens]
    torch.testing.assert_close(result[2].mean, rows.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result[2].highest.values[:, 0], rows.amax(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result[2].lowest.values[:, 0], rows.amin(0), atol=1e-5, rtol=1e-4)
    found = memories(model, 1, result[1], k=4)
    assert str(neuron_table(found, 2)).count("agrees") == 2
    assert 0 <= found.rate <= 1


def test_promoted_tokens_are_those_of_the_value_row(hooked):
    model = hooked("gpt2")
    row = model.bridge.blocks[1].mlp.W_out[7]
    tokens, effects = strongest_effects(model, row[None], 5)
    unit = row / row.square().mean().sqrt()
    logits = torch.nn.functional.linear(model.bridge.ln_final(unit), model.W_U.T)
    logits = logits - torch.nn.functional.linear(model.bridge.ln_final(unit * 0), model.W_U.T)
    expected = (logits - logits.mean()).topk(5)
    assert tokens[0, :5].tolist() == expected.indices.tolist()
    torch.testing.assert_close(effects[0, :5], expected.values, atol=1e-4, rtol=1e-4)


KEY, VALUE, PLANTED = 17, 44, 6


@pytest.fixture(scope="module")
def planted() -> HookedModel:
    """A model whose neuron 6 answers to token 17, and promotes token 44."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_layer=1, n_head=2, n_embd=32, n_positions=32, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        block, embedding = model.transformer.h[0], torch.nn.functional.normalize(torch.randn(60, 32), dim=1)
        model.transformer.wte.weight.copy_(embedding)
        model.transformer.wpe.weight.zero_()
        block.attn.c_proj.weight.zero_()
        direction = embedding[KEY] - embedding[KEY].mean()
        block.mlp.c_fc.weight[:, PLANTED] = 2 * direction
        block.mlp.c_proj.weight[PLANTED] = embedding[VALUE]
    return wrap_model(model)


class Stream:
    """Random tokens in which 44 follows every 17."""

    name, context, concepts, fingerprint = "stream", 16, (), ""

    def batches(self, batch_size, position=START, repeat=False):
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            tokens = torch.randint(0, 60, (batch_size, 16), generator=generator)
            tokens[:, 1:] = torch.where(tokens[:, :-1] == KEY, VALUE, tokens[:, 1:])
            yield TokenBatch(tokens, torch.zeros_like(tokens), START)


def test_a_planted_memory_is_found(planted: HookedModel):
    activity = neuron_activity(planted, Stream(), [0], n_tokens=5000, n_examples=4)[0]
    found = memories(planted, 0, activity, k=1)
    page = neuron_page(found, PLANTED)
    assert found.sign[PLANTED] == 1
    assert found.promoted[PLANTED].tolist() == [VALUE]
    assert (found.triggers.tokens[PLANTED, :, BEFORE] == KEY).all()
    assert found.agreement[PLANTED] == 1
    assert found.ranked()[0] == PLANTED
    assert page.promoted[0][0] == str(VALUE)
    assert all(example.strings[example.peak] == str(KEY) for example in page.triggers)
    following = found.triggers.following
    pairs = [
        (token == found.promoted[other]).any().item()
        for neuron in range(128)
        for token in following[neuron][found.has_next[neuron]]
        for other in range(128)
        if other != neuron
    ]
    assert found.chance == pytest.approx(np.mean(pairs))


def test_tinytowns_values_predict_what_follows_their_keys():
    model = load_model("tinytown")
    corpus = open_corpus("tinytown", model.tokenizer, split="held_out")
    for layer, activity in neuron_activity(model, corpus, [2, 3], n_tokens=10_000).items():
        found = memories(model, layer, activity)
        assert found.rate > 0.3
        assert found.chance < 0.05


def test_what_is_not_there_is_refused(hooked, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    model = hooked("gpt2")
    corpus = open_corpus(tmp_path / "text.txt", model.tokenizer, context=16)
    with pytest.raises(ModelError, match="has no layer 7; its layers are 0 to 2"):
        neuron_activity(model, corpus, [7])
    with pytest.raises(SettingError, match="both must be at least 1"):
        neuron_activity(model, corpus, [1], n_tokens=0)
    found = memories(model, 1, neuron_activity(model, corpus, [1], n_tokens=100)[1], k=3)
    with pytest.raises(SettingError, match="layer 1 has no neuron 128; its neurons are 0 to 127"):
        neuron_page(found, 128)
