"""Prompts found by swapping tokens, against trying them all, a planted trigger, and the best of a corpus."""

import pytest
import torch

from workbench.corpus import open_corpus
from workbench.errors import SettingError, UnknownSite
from workbench.heads import ordinary_tokens
from workbench.maximisation import maximise
from workbench.memories import memories
from workbench.model import HookedModel, load_model
from workbench.neurons import neuron_activity


def ends(model: HookedModel, site: str, prompts: torch.Tensor) -> torch.Tensor:
    parts = (model.run(part, capture=[site], stop_after=site)[site][:, -1] for part in prompts.split(8192))
    return torch.cat(list(parts))


def test_one_token_is_found_among_all(model: HookedModel):
    site = "blocks.1.hook_mlp_out" if model.info.n_experts else "blocks.1.mlp.hook_post"
    result = maximise(model, site, [3, 9], length=1, steps=3, candidates=8, sign=-1)
    everything = ends(model, site, ordinary_tokens(model)[:, None])[:, [3, 9]]
    torch.testing.assert_close(result.activations, everything.amin(0), atol=1e-5, rtol=1e-4)


def test_of_all_pairs_of_tokens_hardly_any_does_better(hooked):
    model, site, units = hooked("llama"), "blocks.1.mlp.hook_post", [0, 5, 11, 20]
    ordinary = ordinary_tokens(model)
    pairs = ends(model, site, torch.cartesian_prod(ordinary, ordinary))[:, units]
    result = maximise(model, site, units, length=2, steps=40, top=64)
    assert ((pairs > result.activations + 1e-5).float().mean(0) < 5e-4).all()
    torch.testing.assert_close(result.activations, ends(model, site, result.tokens)[range(4), units])


def test_a_planted_trigger_is_found():
    from tests.workbench.test_neurons import KEY, PLANTED, planted

    model = planted.__wrapped__()
    result = maximise(model, "blocks.0.mlp.hook_post", [PLANTED], length=6, steps=40, seed=3)
    assert result.tokens[0, -1] == KEY


def test_the_same_seed_gives_the_same_prompt_and_fluency_is_paid_for(hooked):
    model, arguments = hooked("neox"), {"length": 5, "steps": 12, "candidates": 16}
    first, again, other = (maximise(model, "blocks.1.mlp.hook_post", [2, 7], seed=s, **arguments) for s in (1, 1, 2))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert (first.history.diff(dim=0) >= 0).all()
    fluent = maximise(model, "blocks.1.mlp.hook_post", [2, 7], seed=1, fluency=100.0, **arguments)
    assert fluent.losses.mean() < first.losses.mean()


def test_tinytown_is_driven_further_than_by_its_corpus():
    model = load_model("tinytown")
    corpus = open_corpus("tinytown", model.tokenizer, split="held_out")
    found = memories(model, 2, neuron_activity(model, corpus, [2], n_tokens=6_000)[2])
    upward = (found.sign > 0).nonzero()[:8, 0].tolist()
    best = found.triggers.values[upward, 0]
    site = found.activity.site
    begun = maximise(model, site, upward, start=found.starts(upward, 12), steps=20)
    assert (begun.activations > best).float().mean() >= 0.75


def test_what_cannot_be_maximised(hooked):
    model = hooked("gpt2")
    with pytest.raises(UnknownSite):
        maximise(model, "blocks.9.mlp.hook_post", [0])
    with pytest.raises(SettingError, match=r"has units 0 to 127; asked for \[128\]"):
        maximise(model, "blocks.1.mlp.hook_post", [128])
    with pytest.raises(SettingError, match="sign 1 or -1"):
        maximise(model, "blocks.1.mlp.hook_post", [0], sign=2)
