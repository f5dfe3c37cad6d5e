"""A run taken up in the middle against the whole run with the same edits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from workbench.edits import add, replace
from workbench.errors import EditError, SettingError, UnknownSite
from workbench.model import HookedModel
from workbench.suffix import base_run

CLOSE = {"atol": 1e-5, "rtol": 0}
COPIES = 3


@pytest.fixture(scope="module")
def native() -> HookedModel:
    """One of transformer-lens's own models, which keep no keys and values."""
    config = TransformerBridgeConfig(
        n_layers=3, d_model=16, n_ctx=16, d_head=8, n_heads=2, d_vocab=300, d_mlp=32, act_fn="gelu",
        normalization_type="LN", positional_embedding_type="standard", seed=0,
    )  # fmt: skip
    return HookedModel(TransformerBridge.boot_native(config, device="cpu"))


def noise(model: HookedModel, site: str, prompt: Tensor) -> Tensor:
    """As many activations as `COPIES` of the prompt have at a site, each another."""
    shape = model.run(prompt, capture=[site])[site].shape
    return torch.randn(COPIES * len(prompt), *shape[1:], generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("site", ["hook_resid_pre", "attn.hook_k", "attn.hook_pattern", "hook_mlp_out"])
def test_a_run_taken_up_anywhere_ends_as_the_whole_run(model: HookedModel, prompt: Tensor, site: str) -> None:
    base = base_run(model, prompt)
    torch.testing.assert_close(base.logits, model.run(prompt).logits[:, -1], **CLOSE)
    assert base.past
    many = prompt.repeat(COPIES, 1)
    for layer in range(model.info.n_layers):
        name = f"blocks.{layer}.{site}"
        value = noise(model, name, prompt)
        for start in (0, 1, 7, 11):
            cut = value[:, :, start:] if site == "attn.hook_pattern" else value[:, start:]
            edit = add(name, cut, 0.3, positions=slice(start, None))
            capture = [f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.attn.hook_q"]
            whole = model.run(many, edits=[edit], capture=capture)
            run = base.resume(layer, edits=[edit], capture=capture, start=start, copies=COPIES, every_position=True)
            torch.testing.assert_close(run.logits, whole.logits[:, start:], **CLOSE)
            for place in capture:
                torch.testing.assert_close(run[place], whole[place][:, start:], **CLOSE)
            last = base.resume(layer, edits=[edit], start=start, copies=COPIES)
            torch.testing.assert_close(last.logits, whole.logits[:, -1:], **CLOSE)


def test_a_model_without_keys_and_values_is_taken_up_at_the_first_position(native: HookedModel, prompt: Tensor) -> None:
    base = base_run(native, prompt)
    assert not base.past
    edit = add("blocks.1.attn.hook_z", torch.ones(8), heads=1, positions=3)
    run = base.resume(1, edits=[edit], copies=2)
    torch.testing.assert_close(run.logits[:, 0], native.run(prompt.repeat(2, 1), edits=[edit]).logits[:, -1], **CLOSE)
    with pytest.raises(SettingError, match="cannot be taken up at position 3"):
        base.resume(1, start=3)


def test_another_residual_stream_can_be_put_in(model: HookedModel, prompt: Tensor) -> None:
    resid = torch.randn(2, 12, 32)
    whole = model.run(prompt, edits=[replace("blocks.1.hook_resid_pre", resid)]).logits
    run = base_run(model, prompt).resume(1, resid=resid, every_position=True)
    torch.testing.assert_close(run.logits, whole, **CLOSE)


def test_a_run_can_stop_early(hooked: Callable, prompt: Tensor) -> None:
    base = base_run(hooked("llama"), prompt)
    run = base.resume(1, capture=["blocks.1.attn.hook_q"], stop_after="blocks.1.attn.hook_q")
    assert run.logits is None
    whole = hooked("llama").run(prompt, capture=["blocks.1.attn.hook_q"])
    torch.testing.assert_close(run["blocks.1.attn.hook_q"], whole["blocks.1.attn.hook_q"], **CLOSE)


def test_what_lies_before_the_start_is_refused(hooked: Callable, prompt: Tensor) -> None:
    base = base_run(hooked("gpt2"), prompt)
    with pytest.raises(EditError, match=r"blocks\.1\.hook_mlp_out comes before layer 2"):
        base.resume(2, edits=[add("blocks.1.hook_mlp_out", torch.ones(32))])
    with pytest.raises(EditError, match=r"blocks\.0\.attn\.hook_z comes before layer 1"):
        base.resume(1, capture=["blocks.0.attn.hook_z"])
    with pytest.raises(SettingError, match="12 positions of this model cannot be taken up at position 12"):
        base.resume(1, start=12)
    with pytest.raises(UnknownSite):
        base.resume(1, capture=["blocks.1.attn.hook_zz"])


@pytest.mark.parametrize("broken", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_run_leaves_the_model_as_it_was(hooked: Callable, prompt: Tensor, broken: type) -> None:
    model = hooked("llama")
    before = model.run(prompt).logits
    base = base_run(model, prompt)
    edit = add("blocks.1.attn.hook_z", torch.ones(8))
    object.__setattr__(edit, "change", lambda *_: (_ for _ in ()).throw(broken()))
    with pytest.raises(broken):
        base.resume(1, edits=[edit], start=2, copies=2)
    assert torch.equal(model.run(prompt).logits, before)
    assert all("forward" not in vars(block) for block in model.bridge.blocks)
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())
    assert not model.bridge.unembed._forward_pre_hooks
