"""Patching sweeps against one run a cell, against transformer-lens, and against what must hold of any model."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig, TransformerBridgeConfig, patching
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import AutoModelForCausalLM

from workbench.attribution_patching import attribution_patching, compare
from workbench.bootstrap import intervals
from workbench.cli.main import to_json
from workbench.edits import Edit, replace
from workbench.errors import PromptError, SettingError, UnknownSite
from workbench.metrics import KL, LOGIT_DIFFERENCE, LOSS, Metric
from workbench.model import HookedModel
from workbench.patching import activation_patching
from workbench.prompts import PromptPairs
from workbench.sweep import axes, shared_starts

CLOSE = {"atol": 1e-5, "rtol": 0}
SWEEPS = [
    ("hook_resid_pre", ("position",)),
    ("hook_resid_mid", ("position",)),
    ("hook_resid_post", ()),
    ("hook_attn_out", ("position",)),
    ("hook_mlp_out", ("position",)),
    ("attn.hook_z", ("head", "position")),
    ("attn.hook_q", ("position", "head")),
    ("attn.hook_k", ("head", "position")),
    ("attn.hook_v", ("head",)),
    ("attn.hook_pattern", ("head", "query", "key")),
    ("attn.hook_pattern", ("head", "query")),
    ("mlp.hook_post", ("neuron",)),
]


def random_pairs(n: int = 3, length: int = 6, seed: int = 0) -> PromptPairs:
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randint(300, (2, n, length), generator=generator)
    answers, distractors = torch.randint(300, (2, n), generator=generator)
    return PromptPairs("random", clean, corrupted, answers, distractors)


def put_cell(source: Tensor, site: str, by: tuple[str, ...], index: tuple[int, ...]) -> Edit:
    """The change of one cell, by plain indexing."""
    where = [slice(None)] * source.ndim
    for name, number in zip(by, index, strict=True):
        where[axes(site)[name]] = number

    def change(part: Tensor) -> Tensor:
        part = part.clone()
        part[tuple(where)] = source[tuple(where)]
        return part

    return Edit(site, change)


def difference(logits: Tensor, pairs: PromptPairs) -> Tensor:
    rows = torch.arange(len(pairs))
    return logits[rows, -1, pairs.answers] - logits[rows, -1, pairs.distractors]


@pytest.mark.parametrize(("kind", "by"), SWEEPS)
def test_every_cell_is_one_run_with_one_edit(model: HookedModel, kind: str, by: tuple[str, ...]) -> None:
    direction = "noise" if "key" in by or kind == "hook_mlp_out" else "denoise"
    pattern = f"blocks.*.{kind}"
    if f"blocks.0.{kind}" not in model.sites:
        with pytest.raises(UnknownSite):
            activation_patching(model, random_pairs(), pattern, by)
        return
    pairs = random_pairs()
    into, source = (pairs.corrupted, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupted)
    result = activation_patching(model, pairs, pattern, by, direction=direction)
    other = model.run(source, capture=[pattern])
    torch.testing.assert_close(result.into, difference(model.run(into).logits, pairs), **CLOSE)
    torch.testing.assert_close(result.source, difference(other.logits, pairs), **CLOSE)
    cells = list(product(*map(range, result.effect.shape)))
    for number in torch.randperm(len(cells), generator=torch.Generator().manual_seed(1))[:4].tolist():
        layer, *index = cells[number]
        site = f"blocks.{layer}.{kind}"
        run = model.run(into, edits=[put_cell(other[site], site, by, tuple(index))])
        torch.testing.assert_close(result.values[cells[number]], difference(run.logits, pairs), **CLOSE)


@pytest.mark.parametrize("kind", ["attn.hook_k", "attn.hook_v"])
def test_keys_and_values_have_their_own_number_of_heads(model: HookedModel, kind: str) -> None:
    result = activation_patching(model, random_pairs(), f"blocks.*.{kind}", ("head",))
    assert result.effect.shape == (3, model.info.n_kv_heads)


def test_patching_a_whole_residual_stream_gives_the_other_run(model: HookedModel) -> None:
    result = activation_patching(model, random_pairs(), "blocks.*.hook_resid_pre", metric=LOSS)
    torch.testing.assert_close(result.values, result.source.expand(3, -1), **CLOSE)
    torch.testing.assert_close(result.effect, torch.ones(3), atol=1e-4, rtol=0)


def test_kl_is_from_the_clean_prompts(hooked: Callable) -> None:
    result = activation_patching(hooked("llama"), random_pairs(), "blocks.*.hook_resid_pre", metric=KL)
    assert result.source.abs().max() < 1e-5
    assert result.into.min() > 0


PEERS = [
    ("blocks.*.hook_resid_pre", ("position",), patching.get_act_patch_resid_pre, (0, 1)),
    ("blocks.*.hook_resid_mid", ("position",), patching.get_act_patch_resid_mid, (0, 1)),
    ("blocks.*.hook_attn_out", ("position",), patching.get_act_patch_attn_out, (0, 1)),
    ("blocks.*.hook_mlp_out", ("position",), patching.get_act_patch_mlp_out, (0, 1)),
    ("blocks.*.attn.hook_z", ("head", "position"), patching.get_act_patch_attn_head_out_by_pos, (0, 2, 1)),
    ("blocks.*.attn.hook_z", ("head",), patching.get_act_patch_attn_head_out_all_pos, (0, 1)),
    ("blocks.*.attn.hook_q", ("head",), patching.get_act_patch_attn_head_q_all_pos, (0, 1)),
    ("blocks.*.attn.hook_k", ("head", "position"), patching.get_act_patch_attn_head_k_by_pos, (0, 2, 1)),
    ("blocks.*.attn.hook_v", ("head", "position"), patching.get_act_patch_attn_head_v_by_pos, (0, 2, 1)),
    ("blocks.*.attn.hook_pattern", ("head",), patching.get_act_patch_attn_head_pattern_all_pos, (0, 1)),
    (
        "blocks.*.attn.hook_pattern",
        ("head", "query", "key"),
        patching.get_act_patch_attn_head_pattern_dest_src_pos,
        (0, 1, 2, 3),
    ),
]


@pytest.fixture(scope="module")
def hooked_transformer(checkpoint: Callable[[str], Path]) -> HookedTransformer:
    """The tiny GPT-2 as a HookedTransformer: another implementation, of the same weights."""
    gpt2 = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2"))
    with pytest.warns(DeprecationWarning, match="HookedTransformer"):
        theirs = HookedTransformer(
            HookedTransformerConfig(
                n_layers=3, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_vocab=300, d_mlp=128, act_fn="gelu_new",
                normalization_type="LN",
            )
        )  # fmt: skip
    theirs.load_state_dict(convert_gpt2_weights(gpt2, theirs.cfg), strict=False)
    return theirs.requires_grad_(False)


def peer_sweep(model: object, pairs: PromptPairs, sweep: Callable, order: tuple[int, ...]) -> Tensor:
    _, clean = model.run_with_cache(pairs.clean)
    return sweep(model, pairs.corrupted, clean, lambda logits: difference(logits, pairs).mean()).permute(order)


@pytest.mark.parametrize(("site", "by", "sweep", "order"), PEERS)
def test_sweeps_are_those_of_hooked_transformer(
    hooked: Callable, hooked_transformer: HookedTransformer, site: str, by: tuple, sweep: Callable, order: tuple
) -> None:
    pairs = random_pairs(length=5)
    expected = peer_sweep(hooked_transformer, pairs, sweep, order)
    torch.testing.assert_close(activation_patching(hooked("gpt2"), pairs, site, by).raw, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("number", [4, 6, 7, 8])
def test_grouped_query_sweeps_are_those_of_transformer_bridge(hooked: Callable, number: int) -> None:
    site, by, sweep, order = PEERS[number]
    pairs = random_pairs(length=5)
    expected = peer_sweep(hooked("llama").bridge, pairs, sweep, order)
    torch.testing.assert_close(activation_patching(hooked("llama"), pairs, site, by).raw, expected, atol=1e-4, rtol=0)


def linear_model() -> HookedModel:
    """MLPs that are zero and no norms: with its patterns fixed, every path adds up."""
    config = TransformerBridgeConfig(
        n_layers=2, d_model=16, n_ctx=8, d_head=8, n_heads=2, d_vocab=300, attn_only=True, act_fn="gelu",
        normalization_type=None, positional_embedding_type="standard", seed=0,
    )  # fmt: skip
    return HookedModel(TransformerBridge.boot_native(config, device="cpu"))


@pytest.mark.parametrize(
    ("site", "by"),
    [
        ("blocks.1.attn.hook_z", ("head", "position")),
        ("blocks.1.attn.hook_v", ("head",)),
        ("blocks.1.hook_resid_post", ("position",)),
        ("blocks.1.attn.hook_pattern", ("head", "query", "key")),
    ],
)
def test_first_order_is_exact_where_the_rest_is_linear(site: str, by: tuple[str, ...]) -> None:
    model, pairs = linear_model(), random_pairs()
    exact, preview = activation_patching(model, pairs, site, by), attribution_patching(model, pairs, site, by)
    assert exact.effect.abs().max() > 1e-3
    torch.testing.assert_close(preview.values, exact.values, **CLOSE)
    agreement = compare(exact, preview)
    assert agreement.pearson > 0.9999
    assert agreement.largest < 1e-4


@pytest.mark.parametrize(("kind", "by"), SWEEPS[1::2])
def test_first_order_is_the_slope_of_the_metric(model: HookedModel, kind: str, by: tuple[str, ...]) -> None:
    """Against a difference quotient: a small step of every activation towards the other run's.

    The prompts are such that no router of the mixture of experts changes its mind within the step.
    """
    pattern, step = f"blocks.*.{kind}", 1e-2
    if f"blocks.0.{kind}" not in model.sites:
        with pytest.raises(UnknownSite):
            attribution_patching(model, random_pairs(), pattern, by)
        return
    pairs = random_pairs(seed=5)
    preview = attribution_patching(model, pairs, pattern, by)
    into, source = (model.run(tokens, capture=[pattern]) for tokens in (pairs.corrupted, pairs.clean))
    slope = preview.values - preview.into
    for layer in range(model.info.n_layers):
        site = f"blocks.{layer}.{kind}"
        ends = []
        for sign in (step, -step):
            towards = into[site] + sign * (source[site] - into[site])
            ends.append(difference(model.run(pairs.corrupted, edits=[replace(site, towards)]).logits, pairs))
        quotient = (ends[0] - ends[1]) / (2 * step)
        total = slope[layer].reshape(-1, len(pairs)).sum(0)
        torch.testing.assert_close(total, quotient, atol=5e-3, rtol=5e-2)


def test_prompts_of_several_lengths_go_together_where_positions_do_not_matter(hooked: Callable) -> None:
    model, short, long = hooked("gpt2"), random_pairs(2, 5), random_pairs(3, 7, seed=1)
    both = activation_patching(model, [short, long], "blocks.*.attn.hook_z", ("head",))
    alone = [activation_patching(model, pairs, "blocks.*.attn.hook_z", ("head",)).values for pairs in (short, long)]
    torch.testing.assert_close(both.values, torch.cat(alone, dim=-1), **CLOSE)
    with pytest.raises(PromptError, match="5 to 7 tokens, so a position is not the same in all"):
        activation_patching(model, [short, long], "blocks.*.attn.hook_z", ("head", "position"))


@pytest.mark.parametrize(
    ("site", "by", "options", "says"),
    [
        ("blocks.*.hook_resid_pre", ("head",), {}, "has no axis 'head'; it has position"),
        ("blocks.*.attn.hook_pattern", ("position",), {}, "it has head, query, key"),
        ("blocks.*.attn.hook_z", ("head", "head"), {}, "named twice"),
        ("hook_embed", (), {}, "lies outside the layers"),
        ("blocks.*.attn.hook_z", (), {"direction": "up"}, "no direction 'up'; it is 'denoise' or 'noise'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(hooked: Callable, site, by, options, says) -> None:
    with pytest.raises(SettingError, match=says) as error:
        activation_patching(hooked("gpt2"), random_pairs(), site, by, **options)
    assert "\n" not in str(error.value)


def test_a_metric_of_ones_own(hooked: Callable) -> None:
    metric = Metric("difference", lambda logits, pairs, clean: LOGIT_DIFFERENCE(logits, pairs, clean) - 1.0)
    own = activation_patching(hooked("gpt2"), random_pairs(), "blocks.*.hook_mlp_out", metric=metric)
    stock = activation_patching(hooked("gpt2"), random_pairs(), "blocks.*.hook_mlp_out")
    torch.testing.assert_close(own.raw, stock.raw - 1.0, **CLOSE)
    torch.testing.assert_close(own.effect, stock.effect, **CLOSE)


def test_a_result_prints_its_strongest_cells(hooked: Callable) -> None:
    result = activation_patching(hooked("gpt2"), random_pairs(), "blocks.*.attn.hook_z", ("head", "position"))
    cell, effect = result.ranked()[0]
    assert abs(effect) == result.effect.abs().max()
    lines = str(result).split("\n")
    assert result.name(cell) in lines[3]
    assert f"{effect:+.3f}" in lines[3]
    assert lines[-1] == f"  and {3 * 4 * 6 - 10} more"
    saved = to_json(result)
    assert np.array(saved["effect"]).shape == (3, 4, 6)
    assert "values" not in saved


def test_what_one_prompt_cannot_tell_is_null_in_json(hooked: Callable) -> None:
    result = activation_patching(hooked("gpt2"), random_pairs(1), "blocks.*.hook_mlp_out")
    saved = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert saved["low"] == [None, None, None]
    assert saved["effect"] == pytest.approx(result.effect.tolist())


def test_progress_ends_at_the_whole_and_an_interruption_leaves_no_hooks(hooked: Callable) -> None:
    model, seen = hooked("gpt2"), []
    activation_patching(
        model, random_pairs(), "blocks.*.hook_mlp_out", ("position",), on_progress=lambda *done: seen.append(done)
    )
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (3 * 6 * 3, 3 * 6 * 3)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = model.run(random_pairs().clean).logits
    with pytest.raises(KeyboardInterrupt):
        activation_patching(model, random_pairs(), "blocks.*.hook_mlp_out", on_progress=interrupt)
    assert torch.equal(model.run(random_pairs().clean).logits, before)
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())


def test_starts_are_shared_without_wasting_more_than_allowed() -> None:
    starts = torch.arange(10).repeat_interleave(2)
    assert torch.equal(shared_starts(starts, 0), starts)
    assert torch.equal(shared_starts(starts, 7), starts // 3 * 3)
    assert not shared_starts(starts, 10**6).any()


def test_intervals_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    values, scale = torch.randn(2, 3, 25, generator=generator), torch.randn(25, generator=generator) + 5
    found = intervals(values, resamples=20_000)
    ratios = intervals(values, scale, resamples=20_000)
    for cell in product(range(2), range(3)):
        data = values[cell].numpy()
        options = {"n_resamples": 20_000, "method": "percentile", "rng": np.random.default_rng(1)}
        peer = scipy.stats.bootstrap((data,), np.mean, vectorized=True, **options).confidence_interval
        assert [end[cell].item() for end in found] == pytest.approx([*peer], abs=0.02)
        peer = scipy.stats.bootstrap(
            (data, scale.numpy()),
            lambda x, y, axis=-1: x.mean(axis) / y.mean(axis),
            paired=True,
            vectorized=True,
            **options,
        ).confidence_interval
        assert [end[cell].item() for end in ratios] == pytest.approx([*peer], abs=0.005)


def test_one_prompt_has_no_interval() -> None:
    low, high = intervals(torch.ones(4, 1))
    assert low.isnan().all()
    assert high.isnan().all()
