"""Attribution graphs: that edges add up, that they are gradients, and that they foretell interventions."""

import pytest
import torch
from torch import Tensor

from circuits.attribution_graph.frozen import frozen_sites
from circuits.attribution_graph.graph import AttributionGraph, attribution_graph
from circuits.attribution_graph.transcoders import Transcoders, by_layer, is_text
from circuits.latents import encode
from tests.circuits.attribution_graph.conftest import random_transcoder, random_transcoders
from workbench.edits import Edit, replace
from workbench.errors import ModelError, SettingError
from workbench.model import HookedModel


def sums(graph: AttributionGraph) -> Tensor:
    return graph.edges.sum(1) + graph.bias + graph.left_out


def demeaned_logits(model: HookedModel, tokens: Tensor, edits: tuple[Edit, ...] = ()) -> Tensor:
    """At the last position, before the soft cap, [batch, d_vocab]."""
    logits = model.run(tokens, edits=edits).logits[:, -1]
    cap = model.bridge.cfg.output_logits_soft_cap
    logits = cap * (logits / cap).atanh() if cap and cap > 0 else logits
    return logits - logits.mean(-1, keepdim=True)


def test_what_goes_into_a_node_adds_up_to_it(model: HookedModel, transcoders: Transcoders, tokens: Tensor):
    """Pre-activations computed by the SAEs from the model's activations, and the model's own logits."""
    graph = attribution_graph(model, tokens, transcoders)
    run = model.run(tokens, capture=["blocks.*.ln2.hook_normalized"])
    for i, (layer, position, index) in enumerate(graph.latents.tolist()):
        sae, x = transcoders[layer], run[f"blocks.{layer}.ln2.hook_normalized"][0, position]
        pre = x @ sae.W_enc[:, index] + sae.b_enc[index]
        assert sums(graph)[i].item() == pytest.approx(pre.item(), abs=1e-4)
    logits = demeaned_logits(model, tokens)[0, graph.logit_tokens]
    tolerance = 1e-4 if model.info.architecture != "Gemma2ForCausalLM" else 1e-3  # the soft cap has to be undone
    torch.testing.assert_close(sums(graph)[graph.n_latents :], logits, atol=tolerance, rtol=1e-4)


def test_every_active_latent_is_a_node(model: HookedModel, transcoders: Transcoders, tokens: Tensor):
    graph = attribution_graph(model, tokens, transcoders)
    run = model.run(tokens, capture=["blocks.*.ln2.hook_normalized"])
    expected = torch.zeros(3, len(tokens), 40)
    for layer, sae in transcoders.items():
        expected[layer] = encode(sae, run[f"blocks.{layer}.ln2.hook_normalized"][0])
    expected[:, 3] = 0.0  # the special token passes the transcoders by
    torch.testing.assert_close(graph.latents, expected.nonzero())
    torch.testing.assert_close(graph.activations, expected[expected > 0])
    assert graph.n_active == graph.n_latents > 60


def test_edges_are_gradients_with_attention_and_norms_stopped(
    model: HookedModel, transcoders: Transcoders, tokens: Tensor
):
    """Autograd through the model itself: an edge is what is written times the gradient of the target's pre-activation,
    all MLP outputs being leaves but for what skip connections pass on."""
    graph = attribution_graph(model, tokens, transcoders)
    text = is_text(model, tokens)[:, None]
    clean = model.run(tokens, capture=["blocks.*.hook_mlp_out", "blocks.*.ln2.hook_normalized"])
    leaves = {layer: torch.zeros(len(tokens), 32, requires_grad=True) for layer in transcoders}
    seen: dict[int, Tensor] = {}

    def look(layer: int, x: Tensor) -> Tensor:
        seen[layer] = x
        return x

    def written(layer: int, out: Tensor) -> Tensor:
        out, sae = out.detach() + leaves[layer], transcoders[layer]
        if hasattr(sae, "W_skip"):
            moved = (seen[layer] - clean[f"blocks.{layer}.ln2.hook_normalized"]) * text
            out = out + moved @ sae.W_skip.T
        return out

    edits = [Edit(site, torch.detach) for site in frozen_sites(model)]
    for layer in transcoders:
        edits.append(Edit(f"blocks.{layer}.ln2.hook_normalized", lambda x, layer=layer: look(layer, x)))
        edits.append(Edit(f"blocks.{layer}.hook_mlp_out", lambda out, layer=layer: written(layer, out)))
    start = torch.zeros(len(tokens), 32, requires_grad=True)
    edits.append(Edit("blocks.0.hook_resid_pre", lambda x: x + start))
    run = model.run(tokens, edits=edits, capture=["ln_final.hook_normalized"], grad=True)

    errors = {}
    for layer, sae in transcoders.items():
        x, out = clean[f"blocks.{layer}.ln2.hook_normalized"][0], clean[f"blocks.{layer}.hook_mlp_out"][0]
        errors[layer] = out - sae(x) * text
    embedding = model.run(tokens, capture=["blocks.0.hook_resid_pre"])["blocks.0.hook_resid_pre"][0]

    def row(target: Tensor) -> Tensor:
        gradients = torch.autograd.grad(
            target, [*leaves.values(), start], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        of_latents = [
            activation * (transcoders[layer].W_dec[index] @ gradients[layer][position])
            for (layer, position, index), activation in zip(graph.latents.tolist(), graph.activations, strict=True)
        ]
        of_errors = [(errors[layer] * gradients[layer]).sum(1) for layer in transcoders]
        return torch.cat([torch.stack(of_latents), *of_errors, (embedding * gradients[-1]).sum(1)])

    chosen = list(range(0, graph.n_latents, 7))
    for i in chosen:
        layer, position, index = graph.latents[i].tolist()
        target = seen[layer][0, position] @ transcoders[layer].W_enc[:, index]
        torch.testing.assert_close(graph.edges[i], row(target), atol=2e-5, rtol=1e-3)
    if not (cap := model.bridge.cfg.output_logits_soft_cap) or cap < 0:
        last = run.logits[0, -1]
        torch.testing.assert_close(
            graph.edges[-1], row(last[graph.logit_tokens[-1]] - last.mean()), atol=2e-5, rtol=1e-3
        )


def test_transcoders_that_are_the_mlps_leave_no_error(relu_model: HookedModel, own_mlps: Transcoders):
    tokens = torch.arange(3, 13)
    graph = attribution_graph(relu_model, tokens, own_mlps)
    errors = graph.edges[:, graph.n_latents : graph.first_embedding]
    assert errors.abs().max() < 1e-5 * graph.edges.abs().max()
    torch.testing.assert_close(sums(graph), graph.totals, atol=1e-4, rtol=1e-4)
    assert graph.scores.replacement == pytest.approx(1.0, abs=1e-4)
    assert graph.scores.completeness == pytest.approx(1.0, abs=1e-4)


def test_a_transcoder_may_read_the_residual_stream(hooked, tokens: Tensor):
    model = hooked("llama")
    sae = random_transcoder("transcoder", 1, 32, read="hook_resid_mid")
    graph = attribution_graph(model, tokens, by_layer([sae], model))
    x = model.run(tokens, capture=["blocks.1.hook_resid_mid"])["blocks.1.hook_resid_mid"][0]
    pre = (x @ sae.W_enc + sae.b_enc)[graph.latents[:, 1], graph.latents[:, 2]]
    torch.testing.assert_close(sums(graph)[: graph.n_latents], pre, atol=1e-4, rtol=1e-4)


def test_a_layer_without_a_transcoder_is_all_error(hooked, tokens: Tensor):
    """The error's edge to a logit is what zeroing the MLP's output, with the rest of the run held, takes from it."""
    model = hooked("llama")
    graph = attribution_graph(model, tokens, {}, logits=[5])
    assert graph.n_latents == 0
    run = model.run(tokens, capture=[*frozen_sites(model), "blocks.*.hook_mlp_out"])
    held = [
        replace(site, run[site]) for site in (*frozen_sites(model), "blocks.0.hook_mlp_out", "blocks.2.hook_mlp_out")
    ]
    without = replace("blocks.1.hook_mlp_out", torch.zeros(32), positions=[4])
    middle = replace("blocks.1.hook_mlp_out", run["blocks.1.hook_mlp_out"])
    before, after = (demeaned_logits(model, tokens, (*held, middle, *more))[0, 5] for more in ((), (without,)))
    n = len(tokens)
    assert graph.edges[0, n + 4].item() == pytest.approx((before - after).item(), abs=1e-5)


def test_the_most_influential_latents_are_kept(hooked, tokens: Tensor):
    """Influence streamed from the top down, without the matrix, ranks as the matrix does; the rest is counted."""
    model = hooked("qwen3")
    transcoders = random_transcoders(model)
    whole = attribution_graph(model, tokens, transcoders)
    part = attribution_graph(model, tokens, transcoders, max_latents=30)
    size = whole.edges.abs()
    share = size / size.sum(1, keepdim=True)
    n = whole.n_latents
    among, to_logits = share[:n, :n].double(), share[n:, :n].double()
    total = torch.linalg.inv(torch.eye(n) - among)  # I + A + A² + …
    influence = whole.probabilities.double() @ to_logits @ total
    kept = influence.argsort(descending=True)[:30].sort().values
    torch.testing.assert_close(part.latents, whole.latents[kept])
    assert part.n_active == n
    columns = torch.cat([kept, torch.arange(n, whole.edges.shape[1])])
    rows = torch.cat([kept, torch.arange(n, len(whole.edges))])
    torch.testing.assert_close(part.edges, whole.edges[rows][:, columns])
    torch.testing.assert_close(sums(part), part.totals, atol=1e-4, rtol=1e-4)
    assert part.left_out.abs().max() > 0.1


def test_logits_are_the_likeliest_or_those_asked_for(hooked, tokens: Tensor):
    model = hooked("llama")
    probabilities = model.run(tokens).logits[0, -1].softmax(-1)
    graph = attribution_graph(model, tokens, {}, probability=probabilities.topk(3).values.sum().item() - 1e-4)
    assert graph.logit_tokens.tolist() == probabilities.topk(3).indices.tolist()
    assert (
        attribution_graph(model, tokens, {}, max_logits=2).logit_tokens.tolist()
        == probabilities.topk(2).indices.tolist()
    )
    asked = attribution_graph(model, tokens, {}, logits=[7, 3])
    assert asked.logit_tokens.tolist() == [7, 3]
    torch.testing.assert_close(asked.probabilities, probabilities[[7, 3]])


def test_one_token_against_another(model: HookedModel, transcoders: Transcoders, tokens: Tensor):
    """The difference of the two tokens' rows, and it adds up to the difference of their logits."""
    both = attribution_graph(model, tokens, transcoders, logits=[7, 3])
    one = attribution_graph(model, tokens, transcoders, logits=[7], against=3)
    torch.testing.assert_close(one.edges[-1], both.edges[-2] - both.edges[-1], atol=1e-4, rtol=1e-4)
    logits = demeaned_logits(model, tokens)[0]
    assert sums(one)[-1].item() == pytest.approx((logits[7] - logits[3]).item(), abs=1e-3)
    assert one.totals[-1].item() == pytest.approx((logits[7] - logits[3]).item(), abs=1e-3)
    for against in (7, 300):
        with pytest.raises(SettingError, match="it must be a token up to 299, and none to be explained"):
            attribution_graph(model, tokens, transcoders, logits=[7], against=against)


@pytest.mark.parametrize("logits", [[], [300], [4, 4], [-1]])
def test_logits_that_make_no_sense_are_refused(logits: list[int], hooked, tokens: Tensor):
    with pytest.raises(SettingError, match="logits must be different tokens between 0 and 299"):
        attribution_graph(hooked("llama"), tokens, {}, logits=logits)


def test_transcoders_that_do_not_fit_are_refused(hooked):
    model = hooked("neox")
    fits = random_transcoder("transcoder", 1, 32)
    wide, high = random_transcoder("transcoder", 0, 16), random_transcoder("transcoder", 7, 32)
    middle = random_transcoder("transcoder", 0, 32, read="hook_resid_mid")
    for given, message in (
        ([fits, fits], "two sets of latents for the MLP of layer 1"),
        ([wide], "16 wide"),
        ([high], "has no blocks.7.hook_mlp_out"),
        ([middle], "has no blocks.0.hook_resid_mid"),
    ):
        with pytest.raises(SettingError, match=message) as caught:
            by_layer(given, model)
        assert "\n" not in str(caught.value)


def test_a_model_whose_attention_is_another_is_refused(relu_model: HookedModel):
    """As it would be if attention had a part that the workbench does not know of."""
    gate = relu_model.bridge.blocks[1].attn.original_component.o.register_forward_hook(lambda *call: 1.5 * call[2])
    try:
        with pytest.raises(ModelError, match=r"the attention of layer 1 of .* is not the usual one"):
            attribution_graph(relu_model, torch.arange(3, 9), {})
    finally:
        gate.remove()
