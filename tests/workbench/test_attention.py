import pytest
import torch
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.attention import AttentionPatterns, attention_patterns
from workbench.model import HookedModel


@pytest.fixture(scope="module")
def attention_only() -> HookedModel:
    config = TransformerBridgeConfig(
        n_layers=2, d_model=12, n_ctx=16, d_head=4, n_heads=3, d_vocab=30, attn_only=True,
        normalization_type=None, positional_embedding_type="standard", seed=0,
    )  # fmt: skip
    return HookedModel(TransformerBridge.boot_native(config, device="cpu"))


def test_patterns_are_the_softmax_of_queries_and_keys(attention_only: HookedModel):
    tokens = torch.tensor([3, 1, 4, 1, 5])
    result = attention_patterns(attention_only, tokens)
    run = attention_only.run(tokens[None], capture=["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"])
    q, k = run["blocks.1.attn.hook_q"][0], run["blocks.1.attn.hook_k"][0]
    scores = torch.einsum("qhd,khd->hqk", q, k) / 2
    expected = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1)
    assert result.patterns.shape == (2, 3, 5, 5)
    torch.testing.assert_close(result.patterns[1], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(result.tokens, tokens)
    assert len(result.strings) == 5


def test_every_architecture_gives_causal_distributions(model: HookedModel):
    patterns = attention_patterns(model, "The cat sat on the mat").patterns
    assert patterns.shape[:2] == (3, 4)
    torch.testing.assert_close(patterns.sum(-1), torch.ones(patterns.shape[:3]), atol=1e-5, rtol=0)
    assert not patterns.triu(1).any()


def test_the_report_says_where_the_last_token_looks():
    patterns = torch.zeros(1, 2, 3, 3)
    patterns[0, 0, 2, 1], patterns[0, 1, 2, 0] = 0.75, 1.0
    text = str(AttentionPatterns(torch.tensor([0, 1, 2]), ["a", "b", "c"], patterns))
    assert text.splitlines()[1].split() == ["L0", "H0", "'b'@1", "0.75", "H1", "'a'@0", "1.00"]
