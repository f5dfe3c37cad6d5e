"""Every site that a model lists is really there, and every name that it does not list is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workbench import sites
from workbench.edits import Edit, add, splice
from workbench.errors import UnknownSite
from workbench.model import HookedModel

BLOCK = {"hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"} | {
    f"attn.hook_{name}" for name in ("q", "k", "v", "z", "attn_scores", "pattern")
}
DENSE = {"mlp.hook_pre", "mlp.hook_post"}


def test_the_sites_one_expects(model: HookedModel, architecture: str) -> None:
    expected = BLOCK | (DENSE if architecture != "mixtral" else set())
    expected |= set() if architecture == "neox" else {"hook_resid_mid"}  # it has parallel attention and MLP
    expected |= {"mlp.hook_pre_linear"} if architecture in ("llama", "gemma2", "qwen3") else set()
    for layer in range(3):
        assert expected <= {site.removeprefix(f"blocks.{layer}.") for site in model.sites}
    assert ("hook_pos_embed" in model.sites) == (architecture == "gpt2")
    assert ("blocks.0.hook_resid_mid" in model.sites) == (architecture != "neox")
    assert ("blocks.0.mlp.hook_post" in model.sites) == (architecture != "mixtral")


def test_sites_come_in_the_order_of_computation(model: HookedModel) -> None:
    assert model.sites[0] == "hook_embed"
    order = [sites.layer_of(site) for site in model.sites if sites.layer_of(site) is not None]
    assert order == sorted(order)
    place = model.sites.index
    for earlier, later in (("hook_resid_pre", "attn.hook_q"), ("attn.hook_pattern", "attn.hook_z")):
        assert place(f"blocks.1.{earlier}") < place(f"blocks.1.{later}")


def test_every_site_is_visited_once_with_the_expected_shape(model: HookedModel, prompt: Tensor) -> None:
    visits: list[str] = []

    def note(site: str) -> Edit:
        return splice(site, lambda part: (visits.append(site), part.clone())[1])

    run = model.run(prompt, capture=model.sites, edits=[note(site) for site in model.sites])
    assert visits == list(model.sites)
    n_kv = model.info.n_kv_heads
    for site in model.sites:
        name = site.rpartition("hook_")[2]
        activation = run[site]
        if name in ("pattern", "attn_scores"):
            assert activation.shape == (2, 4, 12, 12)
        elif name in ("q", "z", "rot_q"):
            assert activation.shape == (2, 12, 4, 8)
        elif name in ("k", "v", "rot_k"):
            assert activation.shape == (2, 12, n_kv, 8)
        else:
            width = {"scale": 1}.get(name, model.info.d_mlp if ".mlp." in site else 32)
            assert activation.shape == (2, 12, width)


def test_an_edit_at_any_site_changes_the_logits_as_its_gradient_says(model: HookedModel, prompt: Tensor) -> None:
    """The gradient at a site and a small edit there agree: what is captured is what the model goes on to use."""
    readout = torch.randn(300, generator=torch.Generator().manual_seed(3))
    for site in model.sites:
        run = model.run(prompt, capture=[site], grad=True)
        (gradient,) = torch.autograd.grad((run.logits[0, -1] @ readout), run[site])
        steepest = gradient / gradient.norm()
        up, down = (model.run(prompt, edits=[add(site, steepest, scale=step)]).logits[0, -1] for step in (1e-3, -1e-3))
        assert (up - down) @ readout / 2e-3 == pytest.approx(float(gradient.norm()), rel=0.02), site


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.hook_resid_pst", r"no site 'blocks.1.hook_resid_pst'; nearest: blocks.1.hook_resid_post"),
        ("blocks.*.attn.hook_patern", r"nearest: blocks.\*.attn.hook_pattern"),
        ("blocks.7.hook_resid_post", "its layers are 0 to 2"),
        ("hook_pos_embed", "no site 'hook_pos_embed'"),
        ("", "no site ''"),
    ],
)
def test_unknown_sites_are_refused_in_one_line(
    name: str, message: str, hooked: Callable[[str], HookedModel], prompt: Tensor
) -> None:
    model = hooked("llama")
    for request in ({"capture": [name]}, {"edits": [add(name, torch.ones(32))]}):
        with pytest.raises(UnknownSite, match=message) as caught:
            model.run(prompt, **request)
        assert "\n" not in str(caught.value)


def test_patterns_expand_in_order_without_repeats() -> None:
    names = sites.vocabulary(12)
    assert sites.expand(["blocks.11.hook_resid_post", "blocks.*.hook_resid_post"], names) == (
        "blocks.11.hook_resid_post",
        *(f"blocks.{layer}.hook_resid_post" for layer in range(11)),
    )
