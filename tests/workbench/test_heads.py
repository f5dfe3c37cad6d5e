from dataclasses import replace

import pytest
import torch
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.errors import SettingError
from workbench.heads import KINDS, HeadScores, head_scores, repeated_tokens, stripe_scores
from workbench.model import HookedModel

LENGTH = 5


@pytest.fixture(scope="module")
def model() -> HookedModel:
    config = TransformerBridgeConfig(
        n_layers=2, d_model=16, n_ctx=24, d_head=8, n_heads=2, d_vocab=40, d_mlp=32, act_fn="gelu",
        normalization_type="LN", positional_embedding_type="standard", seed=0,
    )  # fmt: skip
    return HookedModel(TransformerBridge.boot_native(config, device="cpu"))


def causal(pos: int) -> torch.Tensor:
    return torch.ones(pos, pos).tril() / torch.arange(1, pos + 1)[:, None]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize(("kind", "offset"), [("previous_token", 1), ("duplicate_token", 5), ("induction", 4)])
def test_a_perfect_head_scores_one_and_the_others_zero(prefix: int, kind: str, offset: int):
    pos = prefix + 2 * LENGTH
    pattern = torch.zeros(pos, pos)
    for query in range(pos):
        pattern[query, query - offset if query >= offset else query] = 1
    scores = stripe_scores(pattern.expand(1, 3, 1, pos, pos), LENGTH)
    assert {name: getattr(scores, name).item() for name in KINDS} == {name: float(name == kind) for name in KINDS}


@pytest.mark.parametrize("prefix", [0, 1])
def test_uniform_attention_scores_the_mean_of_the_reciprocal_positions(prefix: int):
    pos = prefix + 2 * LENGTH
    scores = stripe_scores(causal(pos).expand(1, 2, 1, pos, pos), LENGTH)
    second = sum(1 / (q + 1) for q in range(prefix + LENGTH, pos)) / LENGTH
    both = sum(1 / (q + 1) for q in range(prefix + 1, pos)) / (2 * LENGTH - 1)
    assert scores.induction.item() == pytest.approx(second)
    assert scores.duplicate_token.item() == pytest.approx(second)
    assert scores.previous_token.item() == pytest.approx(both)


def test_layers_and_heads_keep_their_places_and_the_batch_is_averaged():
    pos = 2 * LENGTH
    patterns = torch.zeros(2, 2, 3, pos, pos)
    for query in range(1, pos):
        patterns[1, 0, 2, query, query - 1] = 1
    expected = torch.zeros(2, 3)
    expected[1, 2] = 0.5
    assert torch.equal(stripe_scores(patterns, LENGTH).previous_token, expected)


def test_repeated_tokens_are_distinct_repeated_and_seeded(model: HookedModel):
    tokens = repeated_tokens(model, length=11, batch=4, seed=3)
    first, second = tokens[:, -22:-11], tokens[:, -11:]
    assert torch.equal(first, second)
    assert all(len(set(row)) == 11 for row in first.tolist())
    assert torch.equal(tokens, repeated_tokens(model, length=11, batch=4, seed=3))
    assert not torch.equal(tokens, repeated_tokens(model, length=11, batch=4, seed=4))


def test_scores_and_losses_equal_a_loop_over_the_run(model: HookedModel):
    scores = head_scores(model, length=6, batch=3, seed=1)
    tokens = repeated_tokens(model, 6, 3, 1)
    run = model.run(tokens, capture=["blocks.1.attn.hook_pattern"])
    pattern = run["blocks.1.attn.hook_pattern"]
    log_probs = run.logits.log_softmax(-1)
    induction = sum(pattern[b, 1, q, q - 5].item() for b in range(3) for q in range(6, 12)) / 18
    second = -sum(log_probs[b, i - 1, tokens[b, i]].item() for b in range(3) for i in range(7, 12)) / 15
    first = -sum(log_probs[b, i - 1, tokens[b, i]].item() for b in range(3) for i in range(1, 6)) / 15
    assert scores.induction[1, 1].item() == pytest.approx(induction, rel=1e-5)
    assert scores.second_loss == pytest.approx(second, rel=1e-5)
    assert scores.first_loss == pytest.approx(first, rel=1e-5)
    assert scores.previous_token.shape == (2, 2)


def test_lengths_that_do_not_fit_are_refused(model: HookedModel):
    with pytest.raises(SettingError, match="between 2 and 12"):
        head_scores(model, length=13)
    with pytest.raises(SettingError, match="batch is 0"):
        head_scores(model, batch=0)


def test_the_report_ranks_heads():
    scores = HeadScores(
        previous_token=torch.tensor([[0.1, 0.9]]), duplicate_token=torch.tensor([[0.3, 0.2]]),
        induction=torch.tensor([[0.0, 0.5]]), first_loss=4.0, second_loss=1.0, length=5, batch=2, seed=0,
    )  # fmt: skip
    assert scores.ranked("previous_token") == [(0, 1, pytest.approx(0.9)), (0, 0, pytest.approx(0.1))]
    lines = str(scores).splitlines()
    assert lines[2].split() == ["1", "L0H1", "0.900", "L0H0", "0.300", "L0H1", "0.500"]
    assert lines[-1].endswith("75% lower")
    assert str(replace(scores, second_loss=4.001)).endswith(": 0% lower")
