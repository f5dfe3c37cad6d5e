"""Path patching against its definition written out with plain edits, and against sums and closed forms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.edits import Edit, replace
from workbench.errors import EditError, SettingError
from workbench.model import HookedModel, Run
from workbench.patching import activation_patching
from workbench.path_patching import EMBEDDING, HEADS, MLPS, path_patching
from workbench.prompts import PromptPairs
from workbench.sweep import Place

CLOSE = {"atol": 1e-5, "rtol": 0}
Z = "blocks.{}.attn.hook_z"


def random_pairs(n: int = 2, length: int = 6) -> PromptPairs:
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(300, (2, n, length), generator=generator)
    answers, distractors = torch.randint(300, (2, n), generator=generator)
    return PromptPairs("random", clean, corrupted, answers, distractors)


def difference(logits: Tensor, pairs: PromptPairs) -> Tensor:
    rows = torch.arange(len(pairs))
    return logits[rows, -1, pairs.answers] - logits[rows, -1, pairs.distractors]


def both_runs(model: HookedModel, pairs: PromptPairs) -> tuple[Run, Run]:
    """The clean and the corrupted run, with everything that a path may start from or be held at."""
    wanted = ("hook_z", "hook_mlp_out", "hook_scale", "hook_resid_pre")
    sites = [site for site in model.sites if site.rpartition(".")[2] in wanted]
    return model.run(pairs.clean, capture=sites), model.run(pairs.corrupted, capture=sites)


def one_head(own: Tensor, other: Tensor, head: int) -> Tensor:
    mixed = own.clone()
    mixed[:, :, head] = other[:, :, head]
    return mixed


def frozen(model: HookedModel, clean: Run, corrupted: Run, layer: int, head: int) -> list[Edit]:
    """Every head as in the clean run, but one as in the corrupted run."""
    edits = [replace(Z.format(i), clean[Z.format(i)]) for i in range(model.info.n_layers) if i != layer]
    site = Z.format(layer)
    return [*edits, replace(site, one_head(clean[site], corrupted[site], head))]


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 3), (2, 0)])
def test_head_to_logits_is_a_run_with_the_other_heads_frozen(model: HookedModel, layer: int, head: int) -> None:
    pairs = random_pairs()
    result = path_patching(model, pairs)
    run = model.run(pairs.clean, edits=frozen(model, *both_runs(model, pairs), layer, head))
    torch.testing.assert_close(result.values[layer, head], difference(run.logits, pairs), **CLOSE)


@pytest.mark.parametrize(
    ("receiver", "mlps"),
    [
        (Place("blocks.2.attn.hook_q", heads=1), "recompute"),
        (Place("blocks.2.attn.hook_k", heads=[0, 1], positions=[2, 5]), "recompute"),
        (Place("blocks.1.attn.hook_v"), "freeze"),
        (Place("blocks.2.hook_mlp_out"), "recompute"),
        (Place("blocks.2.hook_mlp_out", positions=slice(3, None)), "freeze"),
    ],
)
def test_head_to_receiver_is_two_runs(model: HookedModel, receiver: Place, mlps: str) -> None:
    pairs, layer, head = random_pairs(), 0, 2
    result = path_patching(model, pairs, receivers=[receiver], mlps=mlps)
    clean, corrupted = both_runs(model, pairs)
    edits = frozen(model, clean, corrupted, layer, head)
    if mlps == "freeze":
        held = [site for site in model.sites if site.endswith("hook_mlp_out") and site != receiver.site]
        edits += [replace(site, clean[site]) for site in held]
    arrived = model.run(pairs.clean, edits=edits, capture=[receiver.site])[receiver.site]
    positions = receiver.positions if receiver.positions is not None else slice(None)
    heads = receiver.heads if receiver.heads is not None else slice(None)
    part = arrived[:, positions]
    part = part if receiver.site.endswith("mlp_out") else part[:, :, [heads] if isinstance(heads, int) else heads]
    patch = replace(receiver.site, part, positions=receiver.positions, heads=receiver.heads)
    run = model.run(pairs.clean, edits=[patch])
    torch.testing.assert_close(result.values[layer, head], difference(run.logits, pairs), **CLOSE)
    assert (result.values[layer, head] - result.into).abs().max() > 1e-6


def test_paths_by_position_add_their_positions(model: HookedModel) -> None:
    """A sender at one position, against the same by hand; most of them start past the first position."""
    pairs = random_pairs()
    result = path_patching(model, pairs, by=("position", "head"), receivers=[Place("blocks.2.attn.hook_v", heads=0)])
    clean, corrupted = both_runs(model, pairs)
    for position, head in ((1, 0), (4, 3)):
        mixed = clean[Z.format(1)].clone()
        mixed[:, position, head] = corrupted[Z.format(1)][:, position, head]
        edits = [replace(Z.format(i), clean[Z.format(i)]) for i in (0, 2)]
        values = model.run(pairs.clean, edits=[*edits, replace(Z.format(1), mixed)], capture=["blocks.2.attn.hook_v"])
        patch = replace("blocks.2.attn.hook_v", values["blocks.2.attn.hook_v"][:, :, :1], heads=0)
        expected = difference(model.run(pairs.clean, edits=[patch]).logits, pairs)
        torch.testing.assert_close(result.values[1, position, head], expected, **CLOSE)


def test_frozen_norms_are_held_by_hand(model: HookedModel, architecture: str) -> None:
    pairs = random_pairs()
    if architecture == "gemma2":
        with pytest.raises(SettingError, match="norms after its sublayers"):
            path_patching(model, pairs, norms="freeze")
        return
    result = path_patching(model, pairs, norms="freeze")
    clean, corrupted = both_runs(model, pairs)
    scales = [site for site in model.sites if site.endswith("hook_scale")]
    edits = frozen(model, clean, corrupted, 1, 2) + [replace(site, clean[site]) for site in scales]
    expected = difference(model.run(pairs.clean, edits=edits).logits, pairs)
    torch.testing.assert_close(result.values[1, 2], expected, **CLOSE)


def test_the_direct_path_to_the_logits_in_closed_form(hooked: Callable) -> None:
    """MLPs and norms frozen, what a head adds is its output through the final norm's gain and the unembedding."""
    model, pairs = hooked("llama"), random_pairs()
    result = path_patching(model, pairs, mlps="freeze", norms="freeze")
    clean, corrupted = both_runs(model, pairs)
    llama = model.bridge.original_model
    rows = torch.arange(len(pairs))
    for layer in range(3):
        W_O = llama.model.layers[layer].self_attn.o_proj.weight.T.reshape(4, 8, 32)
        change = (corrupted[Z.format(layer)] - clean[Z.format(layer)])[:, -1]
        for head in range(4):
            written = change[:, head] @ W_O[head] / clean["ln_final.hook_scale"][:, -1] * llama.model.norm.weight
            logits = written @ model.W_U
            expected = logits[rows, pairs.answers] - logits[rows, pairs.distractors]
            torch.testing.assert_close(result.values[layer, head] - result.into, expected, **CLOSE)


@pytest.fixture(scope="module")
def linear() -> HookedModel:
    """Attention only, without norms: what reaches the logits is the sum of what all senders wrote."""
    config = TransformerBridgeConfig(
        n_layers=3, d_model=16, n_ctx=8, d_head=8, n_heads=2, d_vocab=300, attn_only=True, act_fn="gelu",
        normalization_type=None, positional_embedding_type="standard", seed=0,
    )  # fmt: skip
    return HookedModel(TransformerBridge.boot_native(config, device="cpu"))


def test_direct_paths_of_a_linear_model_sum_to_the_whole(linear: HookedModel) -> None:
    pairs = random_pairs()
    heads = path_patching(linear, pairs)
    embedding = path_patching(linear, pairs, EMBEDDING, by=())
    torch.testing.assert_close(heads.effect.sum() + embedding.effect.sum(), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_a_senders_paths_to_all_receivers_of_the_next_layer_are_what_patching_it_does(linear: HookedModel) -> None:
    """Of a head in the last layer but one: its direct path, and those through queries, keys and values, are all."""
    pairs = random_pairs()
    everywhere = [Place(f"blocks.2.attn.hook_{kind}") for kind in "qkv"]
    through = path_patching(linear, pairs, "blocks.1.attn.hook_z", everywhere)
    direct = path_patching(linear, pairs, "blocks.1.attn.hook_z")
    whole = activation_patching(linear, pairs, "blocks.1.attn.hook_z", ("head",), direction="noise")
    torch.testing.assert_close(through.effect + direct.effect, whole.effect, atol=1e-4, rtol=0)


def test_a_path_to_what_came_before_has_no_effect(hooked: Callable) -> None:
    model, pairs = hooked("gpt2"), random_pairs()
    result = path_patching(model, pairs, receivers=[Place("blocks.1.attn.hook_q")])
    assert not result.effect[1:].any()
    assert result.effect[0].any()


def test_mlps_send_too(model: HookedModel) -> None:
    pairs = random_pairs()
    result = path_patching(model, pairs, MLPS, by=())
    clean, corrupted = both_runs(model, pairs)
    held = [replace(Z.format(i), clean[Z.format(i)]) for i in range(3)]
    sent = replace("blocks.1.hook_mlp_out", corrupted["blocks.1.hook_mlp_out"])
    expected = difference(model.run(pairs.clean, edits=[*held, sent]).logits, pairs)
    torch.testing.assert_close(result.values[1], expected, **CLOSE)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"senders": "blocks.1.hook_resid_pre"}, SettingError, "paths cannot start at"),
        ({"receivers": [Place("blocks.1.hook_resid_pre")]}, SettingError, "paths cannot end at"),
        ({"mlps": "thaw"}, SettingError, "'thaw' is neither"),
        ({"receivers": [Place("blocks.1.attn.hook_q", heads=7)]}, EditError, "head 7 is out of range"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(hooked: Callable, options: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        path_patching(hooked("gpt2"), random_pairs(), **options)
    assert "\n" not in str(caught.value)


def test_the_result_says_which_paths(hooked: Callable) -> None:
    text = str(path_patching(hooked("gpt2"), random_pairs(), HEADS, [Place("blocks.2.attn.hook_q", heads=1)]))
    assert "paths to blocks.2.attn.hook_q, heads 1; on the way, MLPs recompute, norms recompute" in text
