"""Ablation studies against single runs with one plain edit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workbench.ablation import ablation_study, knock_out
from workbench.corpus import Position, TokenBatch
from workbench.edits import ablate, project_out, random_cycle
from workbench.errors import PromptError, SettingError, UnknownSite
from workbench.metrics import KL
from workbench.model import HookedModel
from workbench.prompts import PromptPairs
from workbench.sweep import Place

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def pairs() -> PromptPairs:
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(300, (2, 3, 6), generator=generator)
    answers, distractors = torch.randint(300, (2, 3), generator=generator)
    return PromptPairs("random", clean, corrupted, answers, distractors)


@pytest.fixture
def contexts() -> TokenBatch:
    """Four contexts, the last two of them with padding."""
    tokens = torch.randint(300, (4, 7), generator=torch.Generator().manual_seed(1))
    documents = torch.zeros_like(tokens)
    documents[2, 5:] = documents[3, 3:] = -1
    return TokenBatch(tokens, documents, Position(0, 0, 4))


def difference(logits: Tensor, pairs: PromptPairs) -> Tensor:
    rows = torch.arange(len(pairs))
    return logits[rows, -1, pairs.answers] - logits[rows, -1, pairs.distractors]


def losses(logits: Tensor, contexts: TokenBatch) -> Tensor:
    """Mean loss of each context over the tokens that are text, one context and one token after the other."""
    found = []
    for row, tokens in zip(logits, contexts.tokens, strict=True):
        length = int((contexts.documents[len(found)] >= 0).sum())
        chances = row[: length - 1].softmax(-1)
        found.append(-torch.stack([chances[i, tokens[i + 1]].log() for i in range(length - 1)]).mean())
    return torch.stack(found)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_heads_on_a_task(model: HookedModel, pairs: PromptPairs, how: str) -> None:
    result = ablation_study(model, pairs, "blocks.*.attn.hook_z", ("head",), how=how)
    run = model.run(pairs.clean, capture=["blocks.*.attn.hook_z"])
    torch.testing.assert_close(result.whole, difference(run.logits, pairs), **CLOSE)
    for layer, head in ((0, 1), (2, 3)):
        site = f"blocks.{layer}.attn.hook_z"
        if how == "zero":
            edit = ablate(site, heads=head)
        elif how == "mean":
            edit = ablate(site, "mean", run[site].mean((0, 1))[head], heads=head)
        else:
            others = run[site][random_cycle(3, seed=0)]
            edit = ablate(site, "resample", others[:, :, head : head + 1], heads=head)
        expected = difference(model.run(pairs.clean, edits=[edit]).logits, pairs)
        torch.testing.assert_close(result.values[layer, head], expected, **CLOSE)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_layers_on_a_corpus(model: HookedModel, contexts: TokenBatch, how: str) -> None:
    result = ablation_study(model, contexts, "blocks.*.hook_mlp_out", how=how)
    run = model.run(contexts.tokens, capture=["blocks.*.hook_mlp_out"])
    torch.testing.assert_close(result.whole, losses(run.logits, contexts), **CLOSE)
    for layer in range(3):
        site = f"blocks.{layer}.hook_mlp_out"
        value = {
            "zero": None,
            "mean": run[site][contexts.documents >= 0].mean(0),
            "resample": run[site][random_cycle(4, seed=0)],
        }[how]
        expected = losses(model.run(contexts.tokens, edits=[ablate(site, how, value)]).logits, contexts)
        torch.testing.assert_close(result.values[layer], expected, **CLOSE)


def test_neurons(model: HookedModel, contexts: TokenBatch) -> None:
    if model.info.n_experts:  # no one hidden layer
        with pytest.raises(UnknownSite):
            ablation_study(model, contexts, "blocks.1.mlp.hook_post", ("neuron",))
        return
    result = ablation_study(model, contexts, "blocks.1.mlp.hook_post", ("neuron",), how="zero")
    assert result.effect.shape == (1, model.info.d_mlp)
    hidden = model.run(contexts.tokens, capture=["blocks.1.mlp.hook_post"])["blocks.1.mlp.hook_post"]
    for neuron in (0, 47):
        without = hidden.clone()
        without[..., neuron] = 0
        run = model.run(contexts.tokens, edits=[ablate("blocks.1.mlp.hook_post", "resample", without)])
        torch.testing.assert_close(result.values[0, neuron], losses(run.logits, contexts), **CLOSE)


def test_positions_on_a_task(model: HookedModel, pairs: PromptPairs) -> None:
    result = ablation_study(model, pairs, "blocks.*.hook_attn_out", ("position",), how="zero", metric=KL)
    clean = model.run(pairs.clean).logits[:, -1].softmax(-1)
    for layer, position in ((0, 2), (1, 5)):
        edit = ablate(f"blocks.{layer}.hook_attn_out", positions=position)
        other = model.run(pairs.clean, edits=[edit]).logits[:, -1].softmax(-1)
        expected = (clean * (clean / other).log()).sum(-1)
        torch.testing.assert_close(result.values[layer, position], expected, atol=1e-4, rtol=0)


def test_a_direction(model: HookedModel, contexts: TokenBatch) -> None:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2))
    result = ablation_study(model, contexts, "blocks.*.hook_resid_post", how="direction", direction=direction)
    edit = project_out("blocks.1.hook_resid_post", direction)
    expected = losses(model.run(contexts.tokens, edits=[edit]).logits, contexts)
    torch.testing.assert_close(result.values[1], expected, **CLOSE)


def test_sets_are_ablated_together(model: HookedModel, pairs: PromptPairs) -> None:
    sets = {
        "heads": [Place("blocks.0.attn.hook_z", heads=[0, 2]), Place("blocks.2.attn.hook_z", heads=1, positions=-1)],
        "twice": [Place("blocks.1.attn.hook_z", heads=0), Place("blocks.1.attn.hook_z", heads=3)],
        "every MLP": [Place("blocks.*.hook_mlp_out")],
    }
    result = knock_out(model, pairs, sets, how="zero")
    edits = {
        "heads": [
            ablate("blocks.0.attn.hook_z", heads=[0, 2]),
            ablate("blocks.2.attn.hook_z", heads=1, positions=-1),
        ],
        "twice": [ablate("blocks.1.attn.hook_z", heads=[0, 3])],
        "every MLP": [ablate("blocks.*.hook_mlp_out")],
    }
    for row, name in enumerate(result.labels[0]):
        expected = difference(model.run(pairs.clean, edits=edits[name]).logits, pairs)
        torch.testing.assert_close(result.values[row], expected, **CLOSE)


def test_a_set_of_one_is_the_study_of_its_part(hooked: Callable, pairs: PromptPairs, contexts: TokenBatch) -> None:
    model = hooked("llama")
    for on in (pairs, contexts):
        study = ablation_study(model, on, "blocks.*.attn.hook_z", ("head",))
        alone = knock_out(model, on, {"head": [Place("blocks.1.attn.hook_z", heads=2)]})
        torch.testing.assert_close(alone.values[0], study.values[1, 2], **CLOSE)
        torch.testing.assert_close(alone.effect[0], study.effect[1, 2], **CLOSE)


def test_zeroing_what_never_reaches_the_answer_changes_nothing(model: HookedModel, pairs: PromptPairs) -> None:
    result = ablation_study(model, pairs, "blocks.2.hook_mlp_out", ("position",), how="zero")
    assert result.effect[0, :-1].abs().max() < 1e-5
    assert result.effect[0, -1].abs() > 1e-4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"how": "burn"}, "no ablation 'burn'; it is 'zero'"),
        ({"how": "direction"}, "needs a direction"),
        ({"direction": torch.ones(32)}, "needs a direction, and no other ablation takes one"),
        ({"how": "direction", "direction": torch.zeros(32)}, "vector of zeros"),
        ({"how": "direction", "direction": torch.ones(31)}, "31 entries"),
        ({"site": "blocks.*.attn.hook_pattern"}, "attention has no mean over tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(hooked: Callable, pairs, options: dict, says: str) -> None:
    with pytest.raises(SettingError, match=says) as error:
        ablation_study(hooked("gpt2"), pairs, **{"site": "blocks.*.hook_mlp_out"} | options)
    assert "\n" not in str(error.value)


def test_positions_of_a_corpus_are_numbers(hooked: Callable, contexts: TokenBatch) -> None:
    model = hooked("llama")
    result = ablation_study(model, contexts, "blocks.*.hook_attn_out", ("position",), how="zero")
    run = model.run(contexts.tokens, edits=[ablate("blocks.1.hook_attn_out", positions=4)])
    torch.testing.assert_close(result.values[1, 4], losses(run.logits, contexts), **CLOSE)
    assert result.labels[1] == ["0", "1", "2", "3", "4", "5", "6"]


def test_a_corpus_is_measured_by_its_loss(hooked: Callable, contexts: TokenBatch) -> None:
    with pytest.raises(SettingError, match="the measure is the loss, not kl"):
        ablation_study(hooked("gpt2"), contexts, "blocks.*.hook_mlp_out", metric=KL)


def test_one_prompt_cannot_be_resampled(hooked: Callable, pairs: PromptPairs) -> None:
    with pytest.raises(SettingError, match="at least two prompts"):
        ablation_study(hooked("gpt2"), pairs[:1], "blocks.*.hook_mlp_out", how="resample")
    with pytest.raises(PromptError, match="no prompt pairs"):
        ablation_study(hooked("gpt2"), [], "blocks.*.hook_mlp_out")
    with pytest.raises(SettingError, match="no set"):
        knock_out(hooked("gpt2"), pairs, {})


def test_a_result_prints_the_largest_changes(hooked: Callable, pairs: PromptPairs) -> None:
    result = ablation_study(hooked("gpt2"), pairs, "blocks.*.attn.hook_z", ("head",), how="zero")
    cell, effect = result.ranked()[0]
    assert abs(effect) == result.effect.abs().max()
    assert f"{result.name(cell)}" in str(result).split("\n")[3]
    assert "each part zeroed" in str(result)
