"""The hooked model against Hugging Face's own outputs, and what it says of itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.checkpoints import VOCABULARY, byte_tokenizer, configs
from workbench.edits import add
from workbench.errors import PromptError, UnknownSite
from workbench.model import HookedModel, wrap_model

CLOSE = {"atol": 1e-5, "rtol": 0}


def test_logits_are_those_of_hugging_face(model: HookedModel, reference: PreTrainedModel, prompt: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model.run(prompt).logits, reference(prompt).logits, **CLOSE)


def test_residual_stream_is_that_of_hugging_face(
    model: HookedModel, reference: PreTrainedModel, prompt: Tensor
) -> None:
    with torch.no_grad():
        hidden = reference(prompt, output_hidden_states=True).hidden_states
    run = model.run(prompt, capture=["blocks.*.hook_resid_pre", "blocks.*.hook_resid_post"])
    # Hugging Face shows the last one after the final norm.
    torch.testing.assert_close(run.stack("blocks.*.hook_resid_pre"), torch.stack(hidden[:-1]), **CLOSE)
    torch.testing.assert_close(run.stack("blocks.*.hook_resid_post")[:-1], torch.stack(hidden[1:-1]), **CLOSE)


def test_patterns_are_those_of_hugging_face(model: HookedModel, reference: PreTrainedModel, prompt: Tensor) -> None:
    with torch.no_grad():
        attentions = reference(prompt, output_attentions=True).attentions
    run = model.run(prompt, capture=["blocks.*.attn.hook_pattern", "blocks.*.attn.hook_attn_scores"])
    torch.testing.assert_close(run.stack("blocks.*.attn.hook_pattern"), torch.stack(attentions), **CLOSE)
    scores = run.stack("blocks.*.attn.hook_attn_scores")
    torch.testing.assert_close(scores.softmax(dim=-1), torch.stack(attentions), **CLOSE)


def test_parts_add_up(model: HookedModel, prompt: Tensor) -> None:
    run = model.run(prompt, capture=["blocks.*.hook_resid_pre", "blocks.*.hook_resid_post", "blocks.*.hook_attn_out"])
    mlp = model.run(prompt, capture=["blocks.*.hook_mlp_out"])
    before = run.stack("blocks.*.hook_resid_pre")
    after = before + run.stack("blocks.*.hook_attn_out") + mlp.stack("blocks.*.hook_mlp_out")
    torch.testing.assert_close(after, run.stack("blocks.*.hook_resid_post"), **CLOSE)
    torch.testing.assert_close(run.stack("blocks.*.hook_resid_post")[:-1], before[1:], **CLOSE)
    if "blocks.0.hook_resid_mid" in model.sites:
        mid = model.run(prompt, capture=["blocks.*.hook_resid_mid"]).stack("blocks.*.hook_resid_mid")
        torch.testing.assert_close(mid, before + run.stack("blocks.*.hook_attn_out"), **CLOSE)


def test_unembed_makes_the_logits(model: HookedModel, reference: PreTrainedModel, prompt: Tensor) -> None:
    last = model.run(prompt, capture=["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"]
    with torch.no_grad():
        logits = reference(prompt).logits
    torch.testing.assert_close(model.unembed(last), logits, **CLOSE)
    torch.testing.assert_close(model.unembed(last[0, 3]), logits[0, 3], **CLOSE)
    torch.testing.assert_close(model.unembed(last[None]), logits[None], **CLOSE)


def test_weights_are_those_of_hugging_face(model: HookedModel, reference: PreTrainedModel) -> None:
    assert torch.equal(model.W_U, reference.get_output_embeddings().weight.T)
    assert torch.equal(model.W_E, reference.get_input_embeddings().weight)


def test_facts(model: HookedModel, architecture: str, reference: PreTrainedModel) -> None:
    info = model.info
    grouped = architecture in ("llama", "gemma2", "qwen3", "mixtral")
    assert (info.n_layers, info.n_heads, info.n_kv_heads) == (3, 4, 2 if grouped else 4)
    assert (info.d_model, info.d_head, info.d_vocab) == (32, 8, VOCABULARY)
    assert info.d_mlp == (128 if architecture in ("gpt2", "bloom") else 48)
    assert info.positional == {"gpt2": "learned", "bloom": "alibi"}.get(architecture, "rotary")
    assert info.normalization == ("LN" if architecture in ("gpt2", "bloom", "neox") else "RMS")
    assert info.n_experts == (4 if architecture == "mixtral" else None)
    assert info.n_parameters == sum(parameter.numel() for parameter in reference.parameters())
    assert info.architecture == type(reference).__name__
    if architecture != "bloom":  # ALiBi has no longest context
        assert info.n_ctx == 64


def test_the_callers_model_is_left_as_it_was(architecture: str, prompt: Tensor) -> None:
    theirs = AutoModelForCausalLM.from_config(configs()[architecture]).eval()
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    modules = {name: type(module) for name, module in theirs.named_modules()}
    attention = theirs.config._attn_implementation
    with torch.no_grad():
        logits = theirs(prompt).logits
    tokenizer = byte_tokenizer()
    settings = tokenizer.init_kwargs | tokenizer.special_tokens_map
    ours = wrap_model(theirs, tokenizer)
    ours.run(prompt, edits=[add("blocks.0.hook_resid_post", torch.ones(32))])
    ours.generate("The cat", max_new_tokens=2)
    assert {name: type(module) for name, module in theirs.named_modules()} == modules
    assert theirs.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in theirs.state_dict().items())
    assert all(parameter.requires_grad for parameter in theirs.parameters())
    assert theirs.config._attn_implementation == attention
    assert tokenizer.init_kwargs | tokenizer.special_tokens_map == settings
    with torch.no_grad():
        assert torch.equal(theirs(prompt).logits, logits)


def test_fingerprint_is_of_the_weights(hooked: Callable[[str], HookedModel], checkpoint: Callable[[str], Path]) -> None:
    model = hooked("gpt2")
    same = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2"))
    assert wrap_model(same).fingerprint == model.fingerprint
    same.transformer.h[1].mlp.c_fc.weight.data[3, 4] += 1e-3
    assert wrap_model(same).fingerprint != model.fingerprint


def test_run_stops_where_told(model: HookedModel, prompt: Tensor) -> None:
    whole = model.run(prompt, capture=["blocks.1.hook_resid_post"])
    later = []
    points = [model.bridge.blocks[2].hook_in, model.bridge.ln_final.hook_in]
    handles = [point.register_forward_hook(lambda *_: later.append(1)) for point in points]
    try:
        run = model.run(prompt, capture=["blocks.1.hook_resid_post"], stop_after="blocks.1.hook_resid_post")
    finally:
        for handle in handles:
            handle.remove()
    assert run.logits is None
    assert not later
    assert torch.equal(run["blocks.1.hook_resid_post"], whole["blocks.1.hook_resid_post"])
    assert torch.equal(model.run(prompt).logits, whole.logits)


def test_capturing_past_the_stop_is_refused(hooked: Callable[[str], HookedModel], prompt: Tensor) -> None:
    with pytest.raises(UnknownSite, match=r"blocks\.2\.hook_resid_pre comes after blocks\.0\.hook_mlp_out"):
        hooked("gpt2").run(prompt, capture=["blocks.2.hook_resid_pre"], stop_after="blocks.0.hook_mlp_out")


def test_nothing_is_tracked_unless_asked(hooked: Callable[[str], HookedModel], prompt: Tensor) -> None:
    run = hooked("llama").run(prompt, capture=["blocks.0.attn.hook_z"])
    assert not run.logits.requires_grad
    assert not run["blocks.0.attn.hook_z"].requires_grad
    assert all(not parameter.requires_grad for parameter in hooked("llama").bridge.original_model.parameters())


def test_a_run_tells_what_it_captured(hooked: Callable[[str], HookedModel], prompt: Tensor) -> None:
    run = hooked("gpt2").run(prompt, capture=["hook_embed", "blocks.*.attn.hook_q"])
    assert run.sites == ("hook_embed", *(f"blocks.{layer}.attn.hook_q" for layer in range(3)))
    assert run.stack("blocks.*.attn.hook_q").shape == (3, 2, 12, 4, 8)
    with pytest.raises(UnknownSite, match="was not captured in this run; captured: hook_embed"):
        run["blocks.0.hook_resid_pre"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "the prompt is empty"),
        (torch.zeros(1, 65, dtype=torch.long), "the prompt has 65 tokens; this model takes at most 64"),
        (torch.tensor([[VOCABULARY]]), f"tokens lie between 0 and {VOCABULARY - 1}"),
        (["The cat", "The cat sat on the mat"], "a batch must have one length"),
    ],
)
def test_prompts_that_cannot_be_run(inputs: str | list[str] | Tensor, message: str, hooked: Callable) -> None:
    with pytest.raises(PromptError, match=message):
        hooked("gpt2").run(inputs)
