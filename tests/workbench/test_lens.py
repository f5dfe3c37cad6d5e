import math

import pytest
import torch
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench import lens
from workbench.errors import SettingError
from workbench.lens import _read, logit_lens
from workbench.model import HookedModel
from workbench.norms import freeze
from workbench.residual import attention_output
from workbench.tuned_lens import TunedLens

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
    read = logit_lens(toy, TOKENS, k=30)
    probs = toy.run(TOKENS[None]).logits[0].softmax(-1)
    scattered = torch.zeros_like(probs).scatter_(-1, read.top_tokens[-1], read.top_probs[-1])
    torch.testing.assert_close(scattered, probs, atol=1e-6, rtol=1e-5)
    assert read.kl_to_final[-1].max() < 1e-6
    assert (read.final_rank[-1] == 1).all()
    for position, following in enumerate(TOKENS[1:].tolist()):
        assert read.next_prob[-1, position].item() == pytest.approx(probs[position, following].item(), rel=1e-4)
        better = (probs[position] > probs[position, following]).sum().item()
        assert read.next_rank[-1, position].item() == 1 + better


def test_the_last_row_is_hugging_faces_prediction_for_every_architecture(model: HookedModel, reference):
    tokens = torch.tensor([7, 70, 170, 270])
    read = logit_lens(model, tokens, k=3)
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0].softmax(-1).topk(3)
    torch.testing.assert_close(read.top_probs[-1], expected.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(read.top_tokens[-1], expected.indices)
    assert read.strings == model.token_strings(tokens)


def test_every_row_decodes_its_site(toy: HookedModel):
    read = logit_lens(toy, TOKENS)
    assert read.labels == ["embed", "0", "1", "2"]
    assert read.sites[0] == "blocks.0.hook_resid_pre"
    assert read.top_probs.shape == (4, 6, 5)
    run = toy.run(TOKENS[None], capture=read.sites)
    for row, site in enumerate(read.sites):
        resid = run[site][0]
        normed = (resid - resid.mean(-1, keepdim=True)) / (resid.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        probs = (normed @ toy.W_U).softmax(-1)
        torch.testing.assert_close(read.top_probs[row], probs.topk(5).values, atol=1e-5, rtol=1e-4)
        entropy = -(probs * probs.log()).sum(-1)
        torch.testing.assert_close(read.entropy[row], entropy, atol=1e-4, rtol=1e-4)


def test_a_prompt_of_one_token_has_no_next_token(toy: HookedModel):
    read = logit_lens(toy, TOKENS[:1])
    assert read.next_rank.shape == (4, 0)
    assert str(read).count("\n") == 4


def test_k_outside_the_vocabulary_is_refused(toy: HookedModel):
    with pytest.raises(SettingError, match="k is 31"):
        logit_lens(toy, TOKENS, k=31)


def test_the_parts_of_the_stream_add_up_to_the_models_logits(model: HookedModel, reference, monkeypatch):
    """The rows of sublayers, and a layer's heads, as logits: their sum and the biases against Hugging Face's."""
    rows: dict[str, torch.Tensor] = {}
    real = lens._read

    def spy(row, final, tokens, k):
        rows[str(len(rows))] = row
        return real(row, final, tokens, k)

    monkeypatch.setattr(lens, "_read", spy)
    tokens = torch.tensor([7, 70, 170, 270, 31])
    logit_lens(model, tokens, read="sublayers")
    total = torch.stack(list(rows.values())).sum(0)  # log-probabilities: logits but for a constant at each position
    bias = model.bridge.unembed(model.bridge.ln_final(torch.zeros(1, model.info.d_model)))
    cap = getattr(reference.config, "final_logit_softcapping", None)
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    expected = cap * torch.atanh(expected / cap) if cap else expected
    torch.testing.assert_close((total + bias).log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)
    rows.clear()
    names = logit_lens(model, tokens, read="heads").labels
    assert names[:4] == ["L0H0", "L0H1", "L0H2", "L0H3"]
    heads = torch.stack(list(rows.values()))[8:].sum(0)
    rows.clear()
    sublayers = logit_lens(model, tokens, read="sublayers").labels
    attention = rows[str(sublayers.index("L2 attention"))]
    block = model.bridge.blocks[2].attn
    if block.b_O is not None:
        last = model.run(tokens[None], capture=["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"][0]
        heads = heads + freeze(model.bridge.ln_final, last).part(block.b_O.expand_as(last)) @ model.W_U
    torch.testing.assert_close(heads.log_softmax(-1), attention, atol=1e-4, rtol=0)


def test_head_outputs_and_the_bias_are_what_attention_writes(model: HookedModel):
    tokens = torch.tensor([[7, 70, 170, 270, 31]])
    for layer in range(3):
        z, out = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.hook_attn_out"
        run = model.run(tokens, capture=[z, out])
        through = attention_output(model, layer, run[z], run[out])
        heads = [through.part(run[z][:, :, head], slice(8 * head, 8 * head + 8)) for head in range(4)]
        written = sum(heads) + through.part(torch.zeros_like(run[z].flatten(-2)))
        bias = through.bias if through.norm is None else through.norm.part(through.bias.expand_as(run[out]))
        torch.testing.assert_close(written + bias, run[out], atol=1e-5, rtol=1e-4)


def test_the_stream_is_read_between_attention_and_mlp_too(toy: HookedModel):
    read = logit_lens(toy, TOKENS, read="stream")
    assert read.labels == ["embed", "0 mid", "0", "1 mid", "1", "2 mid", "2"]
    layers = logit_lens(toy, TOKENS)
    torch.testing.assert_close(read.top_probs[[0, 2, 4, 6]], layers.top_probs)
    mid = toy.run(TOKENS[None], capture=["blocks.1.hook_resid_mid"])["blocks.1.hook_resid_mid"]
    torch.testing.assert_close(read.top_probs[3], toy.unembed(mid)[0].softmax(-1).topk(5).values)


def test_parallel_blocks_have_no_middle(hooked):
    assert logit_lens(hooked("neox"), TOKENS, read="stream").labels == ["embed", "0", "1", "2"]


def test_what_cannot_be_read_is_refused(toy: HookedModel):
    with pytest.raises(SettingError, match="a lens reads layers, stream, sublayers, heads, not 'souls'"):
        logit_lens(toy, TOKENS, read="souls")
    with pytest.raises(SettingError, match="cannot read heads"):
        logit_lens(toy, TOKENS, read="heads", tuned=TunedLens.identity(toy))
