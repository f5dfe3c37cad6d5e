"""Value weights, rollout and profiles against explicit sums."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from workbench.attention import PATTERN, attention_patterns
from workbench.attention_flow import VALUES, carried, rollout, value_weights
from workbench.attention_profile import attention_profile
from workbench.corpus import open_corpus
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel, load_model
from workbench.weights import head_weights, norm_of

TOKENS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


def test_what_is_carried_sums_to_the_attention_output(model: HookedModel):
    run = model.run(TOKENS[None], capture=[PATTERN, VALUES, "blocks.1.hook_attn_out"])
    moved = torch.einsum("hqk,khd->hqkd", run["blocks.1.attn.hook_pattern"][0], carried(model, run, 1))
    out = moved.sum((0, 2)) + head_weights(model, 1).b_O
    if model.info.architecture.startswith("Gemma2"):
        out = norm_of(model, 1, "ln1_post")(out)
    torch.testing.assert_close(out, run["blocks.1.hook_attn_out"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(value_weights(model, TOKENS).norms[1], moved.norm(dim=-1), atol=1e-5, rtol=1e-5)


def test_value_weights_as_patterns_are_distributions(hooked):
    patterns = value_weights(hooked("llama"), TOKENS).patterns.patterns
    torch.testing.assert_close(patterns.sum(-1), torch.ones(patterns.shape[:-1]))


def test_rollout_is_the_product_of_the_layers(model: HookedModel):
    patterns = attention_patterns(model, TOKENS)
    result = rollout(patterns)
    torch.testing.assert_close(result.flow.sum(-1), torch.ones(3, 8), atol=1e-5, rtol=0)
    steps = [0.5 * layer.mean(0).double().numpy() + 0.5 * np.eye(8) for layer in patterns.patterns]
    np.testing.assert_allclose(result.flow[2].numpy(), steps[2] @ steps[1] @ steps[0], atol=1e-6)
    assert not result.flow.triu(1).any()


@pytest.fixture(scope="module")
def tinytown() -> HookedModel:
    return load_model("tinytown")


def test_profiles_are_what_the_patterns_say(tinytown: HookedModel):
    corpus = open_corpus("tinytown", tinytown.tokenizer, context=24)
    result = attention_profile(tinytown, corpus, n_contexts=10, batch_size=4)
    batch = next(corpus.batches(10))
    patterns = tinytown.run(batch.tokens, capture=[PATTERN]).stack(PATTERN).double().numpy()
    counted = batch.mask().numpy()
    counted[:, 0] = False
    head = patterns[2, :, 1]
    rows, back = head[counted], np.subtract.outer(np.arange(24), np.arange(24))
    assert result.n_contexts == 10
    assert result.entropy[2, 1].item() == pytest.approx(entropy(rows, axis=1).mean(), rel=1e-4)
    assert result.distance[2, 1].item() == pytest.approx((head * back).sum(-1)[counted].mean(), rel=1e-4)
    between = total = 0.0
    for query in range(1, 24):
        seen = head[counted[:, query], query, : query + 1]
        between += len(seen) * ((seen.mean(0) - 1 / (query + 1)) ** 2).sum()
        total += ((seen - 1 / (query + 1)) ** 2).sum()
    assert result.positional[2, 1].item() == pytest.approx(between / total, rel=1e-4)


def test_a_previous_token_head_is_positional_and_near(tinytown: HookedModel):
    corpus = open_corpus("tinytown", tinytown.tokenizer, context=64)
    result = attention_profile(tinytown, corpus, n_contexts=64)
    assert result.positional[0, 0] > 0.85  # L0H0 looks at the token before
    assert result.positional[1].max() < 0.25  # induction heads look where the content says
    assert result.distance[0, 0] < 3 < result.distance[1].min()


def test_profiles_need_contexts(tinytown: HookedModel):
    with pytest.raises(SettingError, match="at least 2"):
        attention_profile(tinytown, open_corpus("tinytown"), n_contexts=1)
    with pytest.raises(CorpusError, match="too long"):
        attention_profile(tinytown, open_corpus("tinytown", context=129))
