"""What each edit does, against the same change made to the weights or computed by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from workbench.edits import Edit, ablate, add, project_out, replace, scale, splice
from workbench.errors import EditError
from workbench.model import HookedModel

CLOSE = {"atol": 1e-5, "rtol": 0}
RESID = "blocks.1.hook_resid_post"


def edited(activation: Tensor, edit: Edit, hooked: Callable[[str], HookedModel], prompt: Tensor) -> Tensor:
    """The activation at `RESID` after it has been set to `activation` and `edit` has been applied."""
    return hooked("gpt2").run(prompt, capture=[RESID], edits=[replace(RESID, activation), edit])[RESID]


@pytest.fixture
def activation() -> Tensor:
    return torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def vector() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(6))


# Against changed weights


def test_ablating_a_head_is_zeroing_its_rows_of_W_O(
    hooked: Callable[[str], HookedModel], checkpoint: Callable[[str], Path], prompt: Tensor
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2")).eval().requires_grad_(False)
    reference.transformer.h[1].attn.c_proj.weight[16:24] = 0
    run = hooked("gpt2").run(prompt, edits=[ablate("blocks.1.attn.hook_z", heads=2)])
    torch.testing.assert_close(run.logits, reference(prompt).logits, **CLOSE)


@pytest.mark.parametrize(
    ("site", "heads", "weight", "rows"),
    [
        ("attn.hook_z", [0, 3], "self_attn.o_proj", (slice(None), [*range(8), *range(24, 32)])),
        ("attn.hook_q", -1, "self_attn.q_proj", (slice(24, 32),)),
        ("attn.hook_k", 1, "self_attn.k_proj", (slice(8, 16),)),
        ("attn.hook_v", slice(1), "self_attn.v_proj", (slice(0, 8),)),
        ("mlp.hook_post", None, "mlp.down_proj", (slice(None),)),
    ],
)
def test_ablation_under_grouped_queries_is_zeroing_weights(
    site: str,
    heads: int | list[int] | slice | None,
    weight: str,
    rows: tuple,
    hooked: Callable[[str], HookedModel],
    checkpoint: Callable[[str], Path],
    prompt: Tensor,
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(checkpoint("llama")).eval().requires_grad_(False)
    reference.model.layers[1].get_submodule(weight).weight[rows] = 0
    run = hooked("llama").run(prompt, edits=[ablate(f"blocks.1.{site}", heads=heads)])
    torch.testing.assert_close(run.logits, reference(prompt).logits, **CLOSE)


# Against what the model does downstream


def test_adding_at_the_end_of_the_stream_shifts_the_logits_as_unembed_says(
    model: HookedModel, prompt: Tensor, vector: Tensor
) -> None:
    last = "blocks.2.hook_resid_post"
    stream = model.run(prompt, capture=[last])[last]
    run = model.run(prompt, edits=[add(last, vector, scale=0.5)])
    torch.testing.assert_close(run.logits, model.unembed(stream + 0.5 * vector), **CLOSE)


def test_an_edited_pattern_mixes_the_values(model: HookedModel, prompt: Tensor) -> None:
    """Every head made to look at the first position only hands on that position's value."""
    first = torch.zeros(12, 12)
    first[:, 0] = 1
    edits = [replace("blocks.1.attn.hook_pattern", first)]
    run = model.run(prompt, capture=["blocks.1.attn.hook_v", "blocks.1.attn.hook_z"], edits=edits)
    value = run["blocks.1.attn.hook_v"].repeat_interleave(4 // model.info.n_kv_heads, dim=2)
    torch.testing.assert_close(run["blocks.1.attn.hook_z"], value[:, :1].expand_as(value), **CLOSE)


def test_edited_scores_make_the_pattern(model: HookedModel, prompt: Tensor) -> None:
    blind = torch.zeros(12, 12)
    blind[5:, 3] = -1e9
    run = model.run(
        prompt, capture=["blocks.0.attn.hook_pattern"], edits=[add("blocks.0.attn.hook_attn_scores", blind, heads=1)]
    )
    plain = model.run(prompt, capture=["blocks.0.attn.hook_pattern"])["blocks.0.attn.hook_pattern"]
    pattern = run["blocks.0.attn.hook_pattern"]
    assert pattern[:, 1, 5:, 3].abs().max() < 1e-12
    expected = plain[:, 1, 5:].clone()
    expected[..., 3] = 0
    torch.testing.assert_close(pattern[:, 1, 5:], expected / expected.sum(-1, keepdim=True), **CLOSE)
    torch.testing.assert_close(pattern[:, [0, 2, 3]], plain[:, [0, 2, 3]], **CLOSE)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "qwen3", "mixtral", "bloom"])
def test_an_edit_in_mid_block_reaches_the_stream_and_the_mlp(
    architecture: str, hooked: Callable[[str], HookedModel], prompt: Tensor, activation: Tensor
) -> None:
    sites = ["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    model = hooked(architecture)
    run = model.run(prompt, capture=sites, edits=[replace("blocks.1.hook_resid_mid", activation)])
    mid, mlp, post = (run[site] for site in sites)
    assert torch.equal(mid, activation)
    torch.testing.assert_close(post, activation + mlp, **CLOSE)
    assert (mlp - model.run(prompt, capture=sites)["blocks.1.hook_mlp_out"]).abs().max() > 1e-3


def test_patching_in_another_run_gives_its_logits(model: HookedModel, prompt: Tensor) -> None:
    clean, corrupted = prompt[:1], prompt[1:]
    run = model.run(clean, capture=["blocks.1.hook_resid_post"])
    patched = model.run(corrupted, edits=[replace("blocks.1.hook_resid_post", run["blocks.1.hook_resid_post"])])
    torch.testing.assert_close(patched.logits, run.logits, **CLOSE)


# By hand, at one site


def test_values_by_hand(activation: Tensor, vector: Tensor, hooked: Callable, prompt: Tensor) -> None:
    unit = vector / vector.norm()
    for edit, expected in (
        (add(RESID, vector, scale=-2.0), activation - 2 * vector),
        (replace(RESID, vector), vector.expand(2, 12, 32)),
        (ablate(RESID), torch.zeros(2, 12, 32)),
        (ablate(RESID, "mean", vector), vector.expand(2, 12, 32)),
        (ablate(RESID, "resample", activation.flip(0)), activation.flip(0)),
        (ablate(RESID, "resample"), activation.flip(0)),  # of two rows, each gets the other's
        (scale(RESID, 3.0), 3 * activation),
        (project_out(RESID, vector), activation - (activation @ unit)[..., None] * unit),
        (splice(RESID, torch.tanh), activation.tanh()),
        (splice(RESID, torch.tanh, error_term=True), activation),
    ):
        torch.testing.assert_close(edited(activation, edit, hooked, prompt), expected, **CLOSE, msg=edit.name)


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        (3, [3]),
        (-1, [11]),
        ([2, -2, 0], [0, 2, 10]),
        (slice(4, 7), [4, 5, 6]),
        (slice(-3, None), [9, 10, 11]),
        (slice(None, None, 5), [0, 5, 10]),
        (slice(10, 99), [10, 11]),
        (slice(7, 4), []),
    ],
)
def test_positions(
    positions: int | list[int] | slice,
    chosen: list[int],
    activation: Tensor,
    vector: Tensor,
    hooked: Callable,
    prompt: Tensor,
) -> None:
    expected = activation.clone()
    expected[:, chosen] += vector
    assert torch.equal(edited(activation, add(RESID, vector, positions=positions), hooked, prompt), expected)


def test_a_value_for_each_position(activation: Tensor, hooked: Callable, prompt: Tensor) -> None:
    values = torch.stack([torch.full((32,), float(row)) for row in (7, 8, 9)])
    result = edited(activation, replace(RESID, values, positions=[5, 1, 3]), hooked, prompt)
    for position, value in ((5, 7.0), (1, 8.0), (3, 9.0)):
        assert (result[:, position] == value).all()
    rest = [0, 2, 4, *range(6, 12)]
    assert torch.equal(result[:, rest], activation[:, rest])


def test_heads_and_positions_together(hooked: Callable[[str], HookedModel], prompt: Tensor) -> None:
    model = hooked("llama")
    values = torch.randn(2, 3, 8)  # [position head d]
    site = "blocks.0.attn.hook_z"
    plain = model.run(prompt, capture=[site])[site]
    run = model.run(prompt, capture=[site], edits=[replace(site, values, positions=[4, 6], heads=[0, 2, 3])])
    expected = plain.clone()
    expected[:, [[4], [6]], [[0, 2, 3]]] = values
    assert torch.equal(run[site], expected)
    site = "blocks.0.attn.hook_pattern"
    plain = model.run(prompt, capture=[site])[site]
    run = model.run(prompt, capture=[site], edits=[scale(site, 0.5, positions=6, heads=1)])
    expected = plain.clone()
    expected[:, 1, 6] *= 0.5
    assert torch.equal(run[site], expected)


def test_edits_compose_in_the_order_given(hooked: Callable, prompt: Tensor, vector: Tensor) -> None:
    model: HookedModel = hooked("gpt2")
    plain = model.run(prompt, capture=[RESID])[RESID]
    first, second = add(RESID, vector), scale(RESID, 2.0)
    assert torch.equal(model.run(prompt, capture=[RESID], edits=[first, second])[RESID], (plain + vector) * 2)
    assert torch.equal(model.run(prompt, capture=[RESID], edits=[second, first])[RESID], plain * 2 + vector)


def test_a_starred_edit_is_made_in_every_layer(hooked: Callable, prompt: Tensor) -> None:
    model: HookedModel = hooked("llama")
    run = model.run(
        prompt, capture=["hook_embed"], edits=[ablate("blocks.*.hook_attn_out"), ablate("blocks.*.hook_mlp_out")]
    )
    torch.testing.assert_close(run.logits, model.unembed(run["hook_embed"]), **CLOSE)


def test_resampling_passes_rows_on_in_one_cycle(hooked: Callable) -> None:
    model: HookedModel = hooked("gpt2")
    tokens = torch.arange(60).reshape(6, 10)
    plain = model.run(tokens, capture=[RESID])[RESID]
    donors = []
    for seed in (0, 0, 1):
        run = model.run(tokens, capture=[RESID], edits=[ablate(RESID, "resample", seed=seed)])
        donors.append([next(j for j in range(6) if torch.equal(row, plain[j])) for row in run[RESID]])
    assert donors[0] == donors[1] != donors[2]
    for cycle in donors:
        visited, row = [], 0
        for _ in range(6):
            row = cycle[row]
            visited.append(row)
        assert sorted(visited) == list(range(6))


class TwoUnits(nn.Module):
    """Reads and writes the first two coordinates only."""

    def encode(self, x: Tensor) -> Tensor:
        return x[..., :2]

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat([latents, torch.zeros(*latents.shape[:-1], 30)], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def test_splicing_with_edited_latents(activation: Tensor, hooked: Callable, prompt: Tensor) -> None:
    doubled = splice(RESID, TwoUnits(), latents=lambda latents: 2 * latents, error_term=True)
    expected = activation.clone()
    expected[..., :2] *= 2
    torch.testing.assert_close(edited(activation, doubled, hooked, prompt), expected, **CLOSE)
    alone = splice(RESID, TwoUnits(), latents=lambda latents: 2 * latents)
    expected[..., 2:] = 0
    torch.testing.assert_close(edited(activation, alone, hooked, prompt), expected, **CLOSE)


def test_splicing_the_identity_changes_nothing(model: HookedModel, prompt: Tensor) -> None:
    plain = model.run(prompt).logits
    for site in model.sites:
        torch.testing.assert_close(
            model.run(prompt, edits=[splice(site, nn.Identity())]).logits, plain, **CLOSE, msg=site
        )


# Gradients


def test_gradients_reach_edits_and_captures(hooked: Callable, prompt: Tensor, vector: Tensor) -> None:
    model: HookedModel = hooked("gemma2")
    last = "blocks.2.hook_resid_post"
    stream = model.run(prompt, capture=[last])[last].requires_grad_()
    (expected,) = torch.autograd.grad(model.unembed(stream)[:, -1, 7].sum(), stream)
    steering = torch.zeros(32, requires_grad=True)
    run = model.run(prompt, capture=[last], edits=[add(last, steering)], grad=True)
    run.logits[:, -1, 7].sum().backward()
    torch.testing.assert_close(run[last].grad, expected, **CLOSE)
    torch.testing.assert_close(steering.grad, expected.sum((0, 1)), **CLOSE)


def test_an_error_term_lets_gradients_through_the_module_only(hooked: Callable, prompt: Tensor) -> None:
    run = hooked("gpt2").run(
        prompt,
        capture=["blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"],
        edits=[splice("blocks.1.hook_resid_pre", TwoUnits(), error_term=True)],
        grad=True,
    )
    plain = hooked("gpt2").run(prompt, capture=["hook_embed", "blocks.1.hook_resid_pre"], grad=True)
    spliced = hooked("gpt2").run(
        prompt,
        capture=["blocks.0.hook_resid_post"],
        edits=[splice("blocks.1.hook_resid_pre", TwoUnits(), error_term=True)],
        grad=True,
    )
    torch.testing.assert_close(run.logits, plain.logits, **CLOSE)
    (full,) = torch.autograd.grad(plain.logits[0, -1, 3], plain["blocks.1.hook_resid_pre"])
    (through,) = torch.autograd.grad(spliced.logits[0, -1, 3], spliced["blocks.0.hook_resid_post"])
    torch.testing.assert_close(through[..., :2], full[..., :2], **CLOSE)
    assert (through[..., 2:] == 0).all()


# What must not happen


def test_nothing_of_the_callers_is_written_to(hooked: Callable, prompt: Tensor, activation: Tensor) -> None:
    before = activation.clone()
    model: HookedModel = hooked("gpt2")
    model.run(prompt, edits=[replace(RESID, activation), scale(RESID, 2.0), add(RESID, activation)])
    assert torch.equal(activation, before)


def test_no_hook_outlives_a_run(model: HookedModel, prompt: Tensor) -> None:
    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("from within")

    plain = model.run(prompt).logits
    model.run(prompt, capture=model.sites, edits=[scale(site, 1.5) for site in model.sites], stop_after=model.sites[-1])
    with pytest.raises(RuntimeError, match="from within"):
        model.run(prompt, capture=model.sites, edits=[splice("blocks.1.hook_resid_post", fail)])
    with pytest.raises(RuntimeError, match="from within"):
        model.generate(prompt[0], edits=[splice("blocks.1.hook_resid_post", fail)])
    for point in set(model.bridge.hook_dict.values()):
        assert not point.fwd_hooks
        assert not point._forward_hooks
    assert torch.equal(model.run(prompt).logits, plain)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: add(RESID, torch.ones(31)), rf"add at {RESID}: a value of shape \[31\] does not fit the act"),
        (lambda: replace(RESID, torch.ones(11, 32)), r"\[11, 32\] does not fit the activation's \[2, 12, 32\]"),
        (lambda: replace(RESID, torch.ones(3, 32), positions=[1, 2]), r"\[3, 32\] does not fit .* \[2, 2, 32\]"),
        (lambda: add(RESID, torch.ones(1, 1, 1, 32)), r"\[1, 1, 1, 32\] does not fit"),
        (lambda: add(RESID, torch.ones(32), positions=12), "position 12 is outside the sequence of 12 positions"),
        (lambda: add(RESID, torch.ones(32), positions=[0, -13]), "position -13 is outside"),
        (lambda: add(RESID, torch.ones(32), positions=[1, -11]), "a position is selected twice"),
        (lambda: ablate(RESID, heads=1), r"heads= has no meaning here, the activation \[2, 12, 32\] has no head axis"),
        (lambda: ablate("blocks.1.attn.hook_k", heads=2), r"head 2 is out of range, .* \[2, 12, 2, 8\] has 2 heads"),
        (lambda: ablate("blocks.1.attn.hook_pattern", heads=[0, 4]), "head 4 is out of range"),
        (lambda: splice(RESID, lambda part: part[..., :3]), r"it turned \[2, 12, 32\] into \[2, 12, 3\]"),
        (lambda: ablate(RESID, "mean"), "mean ablation needs value="),
        (lambda: ablate(RESID, "noise"), "no how='noise'"),
        (lambda: project_out(RESID, torch.zeros(32)), "a vector of zeros"),
    ],
)  # fmt: skip
def test_edits_that_do_not_fit(edit: Callable[[], Edit], message: str, hooked: Callable, prompt: Tensor) -> None:
    with pytest.raises(EditError, match=message) as caught:
        hooked("llama").run(prompt, edits=[edit()])
    assert "\n" not in str(caught.value)


def test_resampling_needs_another_row(hooked: Callable, prompt: Tensor) -> None:
    with pytest.raises(EditError, match="a batch of one row has no other row"):
        hooked("gpt2").run(prompt[:1], edits=[ablate(RESID, "resample")])
