"""Integrated gradients: complete, exact on a linear model, and what a fine sum over Hugging Face's gradients gives."""

import json

import pytest
import torch
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.cli.attribute import command
from workbench.cli.main import run_command
from workbench.errors import SettingError
from workbench.integrated_gradients import BASELINES, integrated_gradients
from workbench.metrics import LOGIT, LOGIT_DIFFERENCE, LOSS
from workbench.model import HookedModel
from workbench.prompts import PromptPairs


def some_pairs(n: int = 3, length: int = 8, d_vocab: int = 300) -> PromptPairs:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, d_vocab, (n, length), generator=generator)
    answers = torch.randint(0, d_vocab, (2, n), generator=generator)
    return PromptPairs("random", tokens, tokens.flip(1), *answers)


def test_shares_add_up_to_the_whole_difference(model: HookedModel):
    pairs = some_pairs()
    result = integrated_gradients(model, pairs, baseline="corrupted", batch_size=100)
    logits = model.run(pairs.clean).logits[:, -1]
    torch.testing.assert_close(result.value, LOGIT_DIFFERENCE(logits, pairs, logits), atol=1e-5, rtol=1e-5)
    logits = model.run(pairs.corrupted).logits[:, -1]
    torch.testing.assert_close(result.baseline_value, LOGIT_DIFFERENCE(logits, pairs, logits), atol=1e-4, rtol=1e-4)
    difference = result.value - result.baseline_value
    torch.testing.assert_close(result.missing, difference - result.integrated.sum(1))
    if model.info.n_experts is None:  # routing jumps, and what a jump gives has no gradient
        torch.testing.assert_close(result.integrated.sum(1), difference, atol=1e-3, rtol=0)


def test_what_is_missing_is_told_if_it_is_much(hooked):
    """Nothing that a jump between experts gives has a gradient, and one step is too few on a curve."""
    exact = str(integrated_gradients(hooked("gpt2"), some_pairs(1), steps=200))
    assert "in all; the prompt differs from the baseline by" in exact
    assert "missing" not in exact
    assert "is missing: take more steps" in str(integrated_gradients(hooked("mixtral"), some_pairs(1), steps=1))


@pytest.mark.parametrize("baseline", BASELINES)
def test_it_is_exact_on_a_linear_model(baseline):
    config = TransformerBridgeConfig(
        n_layers=1, d_model=16, n_ctx=16, d_head=8, n_heads=2, d_vocab=30, attn_only=True,
        normalization_type=None, positional_embedding_type="standard", seed=0,
    )  # fmt: skip
    model = HookedModel(TransformerBridge.boot_native(config, device="cpu"))
    attention = model.bridge.blocks[0].attn.original_component
    with torch.no_grad():
        attention.q.weight.zero_()  # even attention: a linear map
    pairs = some_pairs(2, 6, 30)
    result = integrated_gradients(model, pairs, baseline=baseline, steps=3)
    W_E, W_U = model.W_E, model.W_U
    start = {"zeros": 0 * W_E[pairs.clean], "mean": W_E.mean(0), "corrupted": W_E[pairs.corrupted]}[baseline]
    direction = (W_U[:, pairs.answers] - W_U[:, pairs.distractors]).T
    OV = sum(model.bridge.blocks[0].attn.W_V[h] @ model.bridge.blocks[0].attn.W_O[h] for h in range(2))
    through = (W_E[pairs.clean] - start) @ OV / 6  # each position is attended to alike
    through[:, -1] += (W_E[pairs.clean] - start)[:, -1]
    expected = torch.einsum("epd,ed->ep", through, direction)
    torch.testing.assert_close(result.integrated, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.gradient, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_it_is_a_fine_sum_over_hugging_faces_gradients(architecture, hooked, reference):
    pairs = some_pairs(1)
    embedding = reference.get_input_embeddings().weight.detach()
    end, start = embedding[pairs.clean], embedding.mean(0).expand(1, 8, -1)
    points = 2000
    at = (torch.arange(points)[:, None, None] + 0.5) / points
    inputs = (start + at * (end - start)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(
        reference(inputs_embeds=inputs).logits[:, -1], pairs.answers.expand(points), reduction="sum"
    )
    (gradient,) = torch.autograd.grad(loss, inputs)
    expected = ((end - start)[0] * gradient.mean(0)).sum(-1)
    result = integrated_gradients(hooked(architecture), pairs, metric=LOSS, baseline="mean")
    torch.testing.assert_close(result.integrated[0], expected, atol=1e-4, rtol=1e-3)
    assert (result.integrated - result.gradient).abs().max() > 1e-3


def test_batches_do_not_matter(hooked):
    model, pairs = hooked("gpt2"), some_pairs(5)
    one = integrated_gradients(model, pairs, metric=LOGIT, steps=16, batch_size=3)
    all_at_once = integrated_gradients(model, pairs, metric=LOGIT, steps=16, batch_size=80)
    torch.testing.assert_close(one.integrated, all_at_once.integrated, atol=1e-5, rtol=1e-4)
    assert one.integrated.shape == (5, 8)


def test_settings_that_make_no_sense_are_refused(hooked):
    with pytest.raises(SettingError, match="the baselines are zeros, mean, corrupted"):
        integrated_gradients(hooked("gpt2"), some_pairs(), baseline="noise")
    with pytest.raises(SettingError, match="0 steps"):
        integrated_gradients(hooked("gpt2"), some_pairs(), steps=0)


PROMPT = "When Anna and Bob went to the river , Anna showed a coin to"


def test_the_command_attributes(capsys):
    arguments = [PROMPT, "--answer", "Bob", "--distractor", "Anna"]
    assert run_command("attribute", command, [*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    total = sum(sum(torch.tensor(values).flatten().tolist()) for values in shown["parts"].values())
    assert total == pytest.approx(shown["logits"][0], abs=1e-3)
    assert run_command("attribute", command, [*arguments, "--by", "token", "--steps", "8"]) == 0
    assert "integrated gradients from mean, 8 steps" in capsys.readouterr().out
    assert run_command("attribute", command, ["--task", "ioi", "--examples", "4", "--by", "head"]) == 0
    assert "mean of 16 prompts of ioi, by head" in capsys.readouterr().out


SAE = "workbench/tinytown/saes/blocks.2.hook_resid_post"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "give either a prompt, with --answer, or --task"),
        ([PROMPT], 2, "a prompt needs --answer"),
        ([PROMPT, "--answer", "Bob", "--by", "latent"], 2, "--by latent and --sae go together"),
        (["--task", "ioi", "--by", "token"], 2, "--by token explains one prompt"),
        (["--task", "love"], 1, "no task 'love'"),
        (["--task", "none.csv"], 1, "none.csv"),
        ([PROMPT, "--answer", "Bob Anna"], 1, "an answer must be one token"),
        ([PROMPT, "--answer", "Bob", "--by", "latent", "--sae", "nowhere"], 1, "nowhere holds no SAE"),
    ],
)
def test_bad_usage_is_told_in_a_line(capsys, arguments, status, message):
    assert run_command("attribute", command, arguments) == status
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_task_is_for_models_that_know_its_words(checkpoint, capsys):
    assert run_command("attribute", command, ["--task", "tinytown.ioi", "--model", str(checkpoint("gpt2"))]) == 1
    assert "does not have the vocabulary of Tinytown" in capsys.readouterr().err
