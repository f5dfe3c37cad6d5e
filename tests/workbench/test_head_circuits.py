"""Circuits of heads against what the model computes on real prompts, brute force, and transformer-lens."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from workbench import head_circuits
from workbench.composition import composition
from workbench.copying import copying_scores
from workbench.edits import ablate
from workbench.errors import ModelError, SettingError
from workbench.head_circuits import ov_circuit, ov_spectrum, qk_circuit
from workbench.head_reads import HeadReads, token_streams
from workbench.loading import bridge_around
from workbench.model import HookedModel, load_model, wrap_model
from workbench.weights import linear_heads

QUERY, KEYS, OFFSET = 17, (5, 211), 3
SCORES = "blocks.0.attn.hook_attn_scores"


def test_the_qk_circuit_holds_the_models_own_scores(model: HookedModel):
    """Two prompts that differ in the key only: what positions alone contribute (ALiBi) cancels in the difference."""
    prompts = torch.tensor([[9, key, 8, 7, QUERY] for key in KEYS])
    still = [ablate("hook_pos_embed")] if "hook_pos_embed" in model.sites else []
    scores = model.run(prompts, capture=[SCORES], edits=still)[SCORES][:, :, 4, 4 - OFFSET]
    if model.info.architecture.startswith("Gemma2"):
        scores = 50 * torch.atanh(scores / 50)
    reads, streams = HeadReads(model, 0, furthest=OFFSET), token_streams(model, 0)
    q, k = reads.queries(streams[[QUERY]], OFFSET), reads.keys(streams[list(KEYS)])
    ours = torch.einsum("bhe,khe->kh", q, k)
    torch.testing.assert_close(ours[0] - ours[1], scores[0] - scores[1], atol=2e-4, rtol=1e-3)


def test_the_ov_circuit_holds_the_models_own_effect(model: HookedModel):
    """A token alone looks at itself, so that its z is its value; the rest is the plain product with W_U."""
    still = [ablate("hook_pos_embed")] if "hook_pos_embed" in model.sites else []
    z = model.run(torch.arange(300)[:, None], capture=["blocks.0.attn.hook_z"], edits=still)["blocks.0.attn.hook_z"]
    block, head = model.bridge.blocks[0], 3
    written = z[:, 0].view(300, 4, 8)[:, head] @ block.attn.W_O[head]
    offset = float(model.info.architecture.startswith("Gemma"))
    if offset:
        written = written * (block.ln1_post.weight + offset)
    if model.info.normalization == "LN":
        written = written - written.mean(-1, keepdim=True)
    logits = (written * (model.bridge.ln_final.weight + offset)) @ model.W_U
    expected = logits - logits.mean(-1, keepdim=True)
    result = ov_circuit(model, 0, head, k=5)
    best = expected.flatten().topk(5)
    torch.testing.assert_close(result.top.values, best.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        result.bottom.values, expected.flatten().topk(5, largest=False).values, atol=1e-4, rtol=1e-4
    )
    assert (result.top.rows * 300 + result.top.columns).tolist() == best.indices.tolist()
    assert result.diagonal == pytest.approx((expected.argmax(1) == torch.arange(300)).float().mean().item())


def test_blocks_of_rows_give_the_same_pairs(hooked, monkeypatch):
    model = hooked("llama")
    whole = qk_circuit(model, 1, 2, offset=2, k=20)
    monkeypatch.setattr(head_circuits, "ENTRIES", 300 * 7)
    parts = qk_circuit(model, 1, 2, offset=2, k=20)
    for one, other in ((whole.top, parts.top), (whole.bottom, parts.bottom)):
        torch.testing.assert_close(one.values, other.values)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.columns, other.columns)
    assert whole.diagonal == parts.diagonal


def test_the_offset_matters_under_rotary_positions_only(hooked):
    def values(name: str, offset: int) -> torch.Tensor:
        return qk_circuit(hooked(name), 0, 0, offset=offset, k=3).top.values

    assert not torch.allclose(values("llama", 1), values("llama", 4))
    torch.testing.assert_close(values("gpt2", 1), values("gpt2", 4))


def test_the_spectrum_is_that_of_the_whole_product(model: HookedModel):
    weights = linear_heads(model, 1)
    expected = torch.linalg.svdvals(weights.W_V[2] @ weights.W_O[2])[:8]
    result = ov_spectrum(model, 1, 2)
    torch.testing.assert_close(result.values, expected, atol=1e-5, rtol=1e-4)
    share = expected.square() / expected.square().sum()
    assert result.participation == pytest.approx(1 / share.square().sum().item(), rel=1e-3)


def test_what_is_not_there_is_refused(hooked):
    with pytest.raises(ModelError, match="has no head 4; its heads are 0 to 3"):
        ov_circuit(hooked("gpt2"), 0, 4)
    with pytest.raises(ModelError, match="an offset lies between 0 and 63"):
        qk_circuit(hooked("gpt2"), 0, 0, offset=64)
    with pytest.raises(SettingError, match="k is 0"):
        ov_circuit(hooked("gpt2"), 0, 0, k=0)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama"])
def test_composition_is_transformer_lens_with_norms_folded(architecture, checkpoint, hooked):
    peer = bridge_around(AutoModelForCausalLM.from_pretrained(checkpoint(architecture)), "peer")
    peer.enable_compatibility_mode(disable_warnings=True)
    ours = composition(hooked(architecture))
    later = torch.arange(3)[:, None, None, None] < torch.arange(3)[:, None]
    for kind in "qkv":
        theirs = peer.all_composition_scores(kind.upper()).scores
        expected = torch.where(later.expand(3, 4, 3, 4), theirs - ours.baseline, torch.nan)
        torch.testing.assert_close(getattr(ours, kind), expected, atol=1e-5, rtol=1e-4, equal_nan=True)


def test_the_baseline_of_composition_is_what_random_heads_have():
    generator, d_model = torch.Generator().manual_seed(0), 96
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    left, right = (draw(400, d_model, 8) @ draw(400, 8, d_model) for _ in range(2))
    size = lambda W: W.flatten(1).norm(dim=1)  # noqa: E731
    scores = size(left @ right) / (size(left) * size(right))
    assert scores.square().mean().sqrt().item() == pytest.approx(d_model**-0.5, rel=0.02)


@pytest.fixture(scope="module")
def identity() -> LlamaForCausalLM:
    """One layer, one head as wide as the model, W_V = 1, embeddings tied; keys and queries are the norm's output."""
    config = LlamaConfig(
        vocab_size=200, hidden_size=48, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=48, max_position_embeddings=16, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        embedding = torch.randn(200, 48, generator=torch.Generator().manual_seed(0))
        model.model.embed_tokens.weight.copy_(embedding)
        for name in ("q", "k", "v", "o"):
            getattr(model.model.layers[0].self_attn, f"{name}_proj").weight.copy_(torch.eye(48))
    return model


@pytest.mark.parametrize("sign", [1, -1])
def test_plus_and_minus_identity_copy_and_suppress(identity: LlamaForCausalLM, sign: int):
    with torch.no_grad():
        identity.model.layers[0].self_attn.o_proj.weight.copy_(sign * torch.eye(48))
    scores = copying_scores(wrap_model(identity), offset=0, top=1)
    assert scores.copying.item() == sign
    assert scores.eigenvalue.item() == pytest.approx(sign, abs=1e-5)
    assert scores.suppression.item() == (sign < 0)


def test_eigenvalues_are_those_of_the_whole_circuit(hooked):
    model = hooked("gpt2")
    weights, streams = linear_heads(model, 1), token_streams(model, 1)
    centred = streams - streams.mean(1, keepdim=True)
    reads = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    W_U = model.bridge.ln_final.weight[:, None] * model.W_U
    whole = reads @ weights.W_V[2] @ weights.W_O[2] @ W_U
    eigenvalues = torch.linalg.eigvals(whole.double())
    expected = (eigenvalues.real.sum() / eigenvalues.abs().sum()).item()
    assert copying_scores(model).eigenvalue[1, 2].item() == pytest.approx(expected, abs=1e-4)


def test_every_architecture_has_scores_in_their_range(model: HookedModel):
    scores = copying_scores(model)
    assert scores.copying.shape == scores.suppression.shape == (3, 4)
    assert (scores.copying.abs() <= 1).all()
    assert (scores.eigenvalue.abs() <= 1 + 1e-5).all()
    assert not scores.eigenvalue.isnan().any()


def test_tinytown_a_previous_token_head_feeds_induction_heads_that_copy():
    model = load_model("tinytown")
    pairs = {(layer, head, later, after) for layer, head, later, after, _ in composition(model).ranked("k")[:4]}
    assert pairs == {(0, 0, 1, head) for head in range(4)}
    scores = copying_scores(model)
    assert (scores.copying[1] > 0.9).all()
    assert (scores.eigenvalue[1] > 0.9).all()
    assert abs(scores.copying[0, 0].item()) < 0.1
    assert math.isclose(ov_circuit(model, 1, 1, k=1).diagonal, 0.96, abs_tol=0.03)
