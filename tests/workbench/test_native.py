"""Bridges that the caller built: small models of transformer-lens's own, attention-only and norm-free ones included."""

import pytest
import torch
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.edits import add, replace, scale
from workbench.errors import PromptError, UnknownSite
from workbench.model import HookedModel

KINDS = {
    "attention only, no norm": {"attn_only": True, "normalization_type": None, "positional_embedding_type": "standard"},
    "like GPT-2": {"d_mlp": 48, "act_fn": "gelu", "normalization_type": "LN", "positional_embedding_type": "standard"},
    "like Llama": {
        "d_mlp": 48,
        "act_fn": "silu",
        "gated_mlp": True,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "n_key_value_heads": 2,
    },
    "capped": {
        "d_mlp": 48,
        "act_fn": "gelu",
        "normalization_type": "RMSPre",
        "positional_embedding_type": "rotary",
        "output_logits_soft_cap": 5.0,
        "attn_scores_soft_cap": 3.0,
    },
}


@pytest.fixture(params=KINDS)
def bridge(request: pytest.FixtureRequest) -> TransformerBridge:
    config = TransformerBridgeConfig(
        n_layers=2,
        d_model=32,
        n_ctx=16,
        d_head=8,
        n_heads=4,
        d_vocab=50,
        seed=0,
        init_weights=True,
        **KINDS[request.param],
    )
    bridge = TransformerBridge.boot_native(config, device="cpu")
    with torch.no_grad():
        for number, parameter in enumerate(bridge.original_model.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return bridge


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(2))


def test_runs_are_those_of_the_bridge(bridge: TransformerBridge, tokens: Tensor) -> None:
    model = HookedModel(bridge)
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(tokens)
    run = model.run(tokens, capture=model.sites)
    torch.testing.assert_close(run.logits, logits, atol=1e-5, rtol=0)
    for site in model.sites:
        if not site.endswith("hook_attn_scores"):
            torch.testing.assert_close(run[site], cache[site], atol=1e-5, rtol=0, msg=site)
    scores = run.stack("blocks.*.attn.hook_attn_scores")
    torch.testing.assert_close(scores.softmax(-1), run.stack("blocks.*.attn.hook_pattern"), atol=1e-6, rtol=0)
    last = run["blocks.1.hook_resid_post"]
    torch.testing.assert_close(model.unembed(last), logits, atol=1e-5, rtol=0)


def test_an_edit_at_any_site_changes_the_logits_as_its_gradient_says(bridge: TransformerBridge, tokens: Tensor) -> None:
    model = HookedModel(bridge)
    readout = torch.randn(50, generator=torch.Generator().manual_seed(3))
    for site in model.sites:
        run = model.run(tokens, capture=[site], grad=True)
        (gradient,) = torch.autograd.grad(run.logits[0, -1] @ readout, run[site])
        steepest = gradient / gradient.norm()
        up, down = (model.run(tokens, edits=[add(site, steepest, scale=step)]).logits[0, -1] for step in (1e-3, -1e-3))
        assert (up - down) @ readout / 2e-3 == pytest.approx(float(gradient.norm()), rel=0.02), site


def test_an_edited_pattern_mixes_the_values(bridge: TransformerBridge, tokens: Tensor) -> None:
    model = HookedModel(bridge)
    first = torch.zeros(9, 9)
    first[:, 0] = 1
    sites = ["blocks.1.attn.hook_v", "blocks.1.attn.hook_z"]
    run = model.run(tokens, capture=sites, edits=[replace("blocks.1.attn.hook_pattern", first)])
    value, mixed = run[sites[0]].repeat_interleave(4 // model.info.n_kv_heads, dim=2), run[sites[1]]
    torch.testing.assert_close(mixed, value[:, :1].expand_as(value), atol=1e-6, rtol=0)


def test_the_callers_bridge_is_left_as_it_was(bridge: TransformerBridge, tokens: Tensor) -> None:
    weights = {name: tensor.clone() for name, tensor in bridge.state_dict().items()}
    needs = [parameter.requires_grad for parameter in bridge.original_model.parameters()]
    before = bridge(tokens)
    model = HookedModel(bridge)
    model.run(
        tokens, capture=model.sites, edits=[scale(site, 1.1) for site in model.sites], grad=True
    ).logits.sum().backward()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bridge.state_dict().items())
    assert [parameter.requires_grad for parameter in bridge.original_model.parameters()] == needs
    assert all("forward" not in vars(module) for module in bridge.modules())
    assert torch.equal(bridge(tokens), before)


def test_generation_computes_the_whole_sequence_each_time(bridge: TransformerBridge, tokens: Tensor) -> None:
    model = HookedModel(bridge)
    edits = [add("blocks.0.hook_resid_post", torch.ones(32), positions=[2, 7])]
    generation = model.generate(tokens[0, :5], max_new_tokens=6, temperature=0, edits=edits)
    sequence = tokens[:1, :5]
    for _ in range(6):
        reached = [
            add("blocks.0.hook_resid_post", torch.ones(32), positions=[p for p in (2, 7) if p < sequence.shape[1]])
        ]
        sequence = torch.cat([sequence, model.run(sequence, edits=reached).logits[:, -1:].argmax(-1)], dim=1)
    assert generation.tokens.tolist() == sequence[0].tolist()
    assert generation.text is None
    assert str(generation) == " ".join(map(str, sequence[0].tolist()))


def test_facts_and_what_is_lacking(bridge: TransformerBridge, tokens: Tensor, request: pytest.FixtureRequest) -> None:
    model = HookedModel(bridge, source="toy")
    bare = "attention only" in request.node.name
    assert model.info.name == "toy"
    assert (model.info.n_layers, model.info.n_ctx, model.info.d_mlp) == (2, 16, None if bare else 48)
    assert model.info.normalization == ("none" if bare else bridge.cfg.normalization_type)
    assert model.token_strings(tokens[0, :3]) == [str(int(token)) for token in tokens[0, :3]]
    with pytest.raises(PromptError, match="toy has no tokenizer; give tokens instead of text"):
        model.run("some text")
    if bare:
        with pytest.raises(UnknownSite, match=r"no site 'blocks.0.hook_mlp_out'"):
            model.run(tokens, capture=["blocks.0.hook_mlp_out"])
