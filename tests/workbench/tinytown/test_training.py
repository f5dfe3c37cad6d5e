"""Models of each architecture before and while they are trained."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from workbench.errors import SettingError
from workbench.model import load_model
from workbench.tinytown.initial import new_model
from workbench.tinytown.options import TrainOptions
from workbench.tinytown.training import _apart, save_model, train_model

KINDS = {"llama": {}, "grouped": {"n_kv_heads": 2}, "gemma2": {"architecture": "gemma2", "n_kv_heads": 2}}


def options(kind, **more):
    small = {"n_layers": 3, "d_model": 64, "d_mlp": 48, "context": 64, "batch_size": 2}
    return TrainOptions(**{"out": "", **small, "tokens": 384, "passages": 128, **KINDS[kind], **more})


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def start(kind, **more):
    torch.manual_seed(0)
    return new_model(options(kind, **more))


def trained(kind, **more):
    losses = []
    model = train_model(options(kind, **more), lambda step, _: losses.append(step.loss))
    return model, losses[1:]


def test_equal_options_give_equal_weights(kind):
    (one, losses), (two, again), (other, _) = trained(kind), trained(kind), trained(kind, seed=1)
    assert losses == again
    assert all(math.isfinite(loss) for loss in losses)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_a_saved_model_is_what_hugging_face_and_the_workbench_load(kind, tmp_path):
    model, _ = trained(kind)
    save_model(model, 64, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    ours = load_model(tmp_path / "model")
    assert ours.info.n_kv_heads == (4 if kind == "llama" else 2)
    assert type(plain).__name__ == ("Gemma2ForCausalLM" if kind == "gemma2" else "LlamaForCausalLM")
    tokens = torch.randint(2, 1000, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain(tokens).logits
    assert torch.allclose(ours.run(tokens).logits, expected, atol=1e-5)
    if kind == "gemma2":
        assert plain.config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
        assert (plain.config.sliding_window, plain.config.attn_logit_softcapping) == (8, 50.0)


def test_heads_copy_with_the_values_of_their_group(kind):
    """What a head writes about a token is a part of the token's value, seen through the transpose of that value."""
    attention = start(kind).model.layers[1].self_attn
    kv = attention.v_proj.weight.unflatten(0, (-1, 16))
    for head, out in enumerate(attention.o_proj.weight.unflatten(1, (-1, 16)).unbind(1)):
        assert torch.allclose(out, 0.5 * kv[head * len(kv) // 4].T)


def test_first_heads_look_back_by_their_biases(kind):
    """Attention of the first layer to `distance` back, read off the model by itself on tokens drawn at random."""
    model = start(kind, n_layers=1)
    model.set_attn_implementation("eager")
    tokens = torch.randint(2, 1000, (8, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (pattern,) = model(tokens, output_attentions=True).attentions
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    for head, distance in ((0, 1), (group, 2)):
        assert pattern[:, head].diagonal(-distance, 1, 2).mean() > 0.5


def test_a_document_is_read_as_if_it_stood_alone(kind):
    model = start(kind).eval()
    documents = torch.tensor([[4] * 20 + [5] * 24 + [6] * 4])
    tokens = torch.randint(2, 1000, documents.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        packed = model(tokens, **_apart(documents, model)).logits
        alone = [model(part).logits for part in tokens.split([20, 24, 4], dim=1)]
    assert torch.allclose(packed, torch.cat(alone, dim=1), atol=1e-5)


def test_mlps_start_by_writing_nothing(kind):
    model = start(kind).eval()
    written = []
    for layer in model.model.layers:
        last = layer.post_feedforward_layernorm if kind == "gemma2" else layer.mlp
        last.register_forward_hook(lambda _module, _inputs, output: written.append(output.abs().max().item()))
    model(torch.arange(30)[None])
    assert written == [0, 0, 0]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"n_kv_heads": 3}, r"--n-kv-heads must divide --n-heads \(4\), not be 3"),
        ({"n_kv_heads": 0}, r"--n-kv-heads must divide --n-heads \(4\), not be 0"),
        ({"architecture": "gpt2"}, "--architecture is 'llama' or 'gemma2', not 'gpt2'"),
    ],
)
def test_impossible_options_are_refused(bad, says):
    with pytest.raises(SettingError, match=says):
        options("llama", **bad)
