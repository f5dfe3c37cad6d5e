import math

import pytest
import torch
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.errors import SettingError
from workbench.lens import _read, logit_lens
from workbench.model import HookedModel

TOKENS = torch.tensor([3, 1, 4, 1, 5, 9])


@pytest.fixture(scope="module")
def toy() -> HookedModel:
    config = TransformerBridgeConfig(
        n_layers=3, d_model=16, n_ctx=16, d_head=8, n_heads=2, d_vocab=30, d_mlp=32, act_fn="gelu",
        normalization_type="LN", positional_embedding_type="standard", seed=0,
    )  # fmt: skip
    return HookedModel(TransformerBridge.boot_native(config, device="cpu"))


def test_one_row_by_hand():
    row = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]).log()
    final = torch.tensor([[0.25, 0.25, 0.5], [0.125, 0.125, 0.75]]).log()
    read = _read(row, final, torch.tensor([0, 1]), k=1)
    assert read["top_tokens"].tolist() == [[0], [2]]
    assert read["top_probs"].flatten().tolist() == pytest.approx([0.5, 0.75])
    assert read["entropy"][0].item() == pytest.approx(1.5 * math.log(2))
    expected_kl = 0.25 * math.log(0.25 / 0.5) + 0 + 0.5 * math.log(0.5 / 0.25)
    assert read["kl_to_final"].tolist() == pytest.approx([expected_kl, 0.0], abs=1e-6)
    assert read["final_rank"].tolist() == [2, 1]
    assert read["next_prob"].tolist() == pytest.approx([0.25])
    assert read["next_rank"].tolist() == [2]


def test_the_last_row_is_the_models_own_prediction(toy: HookedModel):
    lens = logit_lens(toy, TOKENS, k=30)
    probs = toy.run(TOKENS[None]).logits[0].softmax(-1)
    scattered = torch.zeros_like(probs).scatter_(-1, lens.top_tokens[-1], lens.top_probs[-1])
    torch.testing.assert_close(scattered, probs, atol=1e-6, rtol=1e-5)
    assert lens.kl_to_final[-1].max() < 1e-6
    assert (lens.final_rank[-1] == 1).all()
    for position, following in enumerate(TOKENS[1:].tolist()):
        assert lens.next_prob[-1, position].item() == pytest.approx(probs[position, following].item(), rel=1e-4)
        better = (probs[position] > probs[position, following]).sum().item()
        assert lens.next_rank[-1, position].item() == 1 + better


def test_the_last_row_is_hugging_faces_prediction_for_every_architecture(model: HookedModel, reference):
    tokens = torch.tensor([7, 70, 170, 270])
    lens = logit_lens(model, tokens, k=3)
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0].softmax(-1).topk(3)
    torch.testing.assert_close(lens.top_probs[-1], expected.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(lens.top_tokens[-1], expected.indices)
    assert lens.strings == model.token_strings(tokens)


def test_every_row_decodes_its_site(toy: HookedModel):
    lens = logit_lens(toy, TOKENS)
    assert lens.labels == ["embed", "0", "1", "2"]
    assert lens.sites[0] == "blocks.0.hook_resid_pre"
    assert lens.top_probs.shape == (4, 6, 5)
    run = toy.run(TOKENS[None], capture=lens.sites)
    for row, site in enumerate(lens.sites):
        resid = run[site][0]
        normed = (resid - resid.mean(-1, keepdim=True)) / (resid.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        probs = (normed @ toy.W_U).softmax(-1)
        torch.testing.assert_close(lens.top_probs[row], probs.topk(5).values, atol=1e-5, rtol=1e-4)
        entropy = -(probs * probs.log()).sum(-1)
        torch.testing.assert_close(lens.entropy[row], entropy, atol=1e-4, rtol=1e-4)


def test_a_prompt_of_one_token_has_no_next_token(toy: HookedModel):
    lens = logit_lens(toy, TOKENS[:1])
    assert lens.next_rank.shape == (4, 0)
    assert str(lens).count("\n") == 4


def test_k_outside_the_vocabulary_is_refused(toy: HookedModel):
    with pytest.raises(SettingError, match="k is 31"):
        logit_lens(toy, TOKENS, k=31)
