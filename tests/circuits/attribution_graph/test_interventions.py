"""Interventions: what a graph predicts is what happens, exactly where it must be."""

import pytest
import torch
from torch import Tensor

from circuits.attribution_graph.graph import attribution_graph
from circuits.attribution_graph.interventions import Latent, intervene, predict
from circuits.attribution_graph.transcoders import Transcoders
from tests.circuits.attribution_graph.test_graph import demeaned_logits
from workbench.edits import scale
from workbench.errors import SettingError
from workbench.model import HookedModel


def changes(model: HookedModel, tokens: Tensor, logits: Tensor, graph) -> Tensor:
    """Of the graph's logits, [set, logit], less the mean logit and before a soft cap."""
    cap = model.bridge.cfg.output_logits_soft_cap
    logits = cap * (logits / cap).atanh() if cap and cap > 0 else logits
    moved = logits - logits.mean(-1, keepdim=True) - demeaned_logits(model, tokens)
    return moved[:, graph.logit_tokens]


@pytest.mark.parametrize("factor", [0.0, 2.0, -1.0])
def test_direct_effects_are_the_edges(model: HookedModel, transcoders: Transcoders, tokens: Tensor, factor: float):
    """With everything else held, edits on the model itself do what edges to the logits say, whatever is changed."""
    graph = attribution_graph(model, tokens, transcoders)
    places = [Latent(*place) for place in graph.latents.tolist()]
    sets = [places[:1], places[5:40:4], [place for place in places if place.position == 8], []]
    logits = intervene(model, tokens, transcoders, sets, factor, held="latents")
    predicted = torch.stack([predict(graph, latents, factor, respond=False) for latents in sets])
    torch.testing.assert_close(changes(model, tokens, logits, graph), predicted, atol=2e-3, rtol=1e-3)
    assert predicted[2].abs().max() > 0.1


def test_responding_latents_follow_the_paths(relu_model: HookedModel, own_mlps: Transcoders):
    """The transcoders are the MLPs, attention and norms are held, and the change is too small to switch a latent: then
    paths of all lengths, signs and all, tell what the model's own MLPs do."""
    tokens = torch.arange(3, 13)
    graph = attribution_graph(relu_model, tokens, own_mlps)
    places = [Latent(*place) for place in graph.latents.tolist()]
    sets = [[place] for place in places[:60:3]] + [places[:40:5]]
    factor = 1 + 1e-2
    logits = intervene(relu_model, tokens, own_mlps, sets, factor, held="attention")
    measured = changes(relu_model, tokens, logits, graph) / (factor - 1)
    predicted = torch.stack([predict(graph, latents, factor) for latents in sets]) / (factor - 1)
    direct = torch.stack([predict(graph, latents, factor, respond=False) for latents in sets]) / (factor - 1)
    torch.testing.assert_close(measured, predicted, atol=2e-3, rtol=2e-3)
    assert (measured - direct).abs().max() > 0.05  # the paths through other latents count


def test_turning_neurons_off_in_the_model_is_scaling_them(relu_model: HookedModel, own_mlps: Transcoders):
    """A transcoder that is the MLP: an edit of its latent in the whole model is an edit of the neuron."""
    tokens = torch.arange(3, 13)
    sets = [[Latent(0, 4, 3), Latent(0, 9, 3), Latent(2, 9, 20)], [Latent(1, 7, 11)]]
    logits = intervene(relu_model, tokens, own_mlps, sets, factor=0.5)
    for latents, measured in zip(sets, logits, strict=True):
        edits = [_scaled(latent, 0.5) for latent in latents]
        torch.testing.assert_close(measured, relu_model.run(tokens, edits=edits).logits[0, -1], atol=1e-5, rtol=1e-5)


def _scaled(latent: Latent, factor: float):
    column = torch.ones(24)
    column[latent.index] = factor
    edit = scale(f"blocks.{latent.layer}.mlp.hook_post", 1.0, positions=[latent.position])
    return type(edit)(edit.site, lambda part: part * column, positions=[latent.position])


def test_nothing_changes_where_nothing_is_asked(model: HookedModel, transcoders: Transcoders, tokens: Tensor):
    """Also with the replacement model in the MLPs' place: its errors make it the model."""
    clean = model.run(tokens).logits[:, -1]
    for held in ("nothing", "attention", "latents"):
        torch.testing.assert_close(intervene(model, tokens, transcoders, [[]], held=held), clean, atol=1e-3, rtol=1e-3)


def test_latents_that_are_not_there_are_refused(hooked, tokens: Tensor):
    model = hooked("llama")
    graph = attribution_graph(model, tokens, {})
    with pytest.raises(SettingError, match=r"\(0, 1, 2\) .* is no latent of this graph"):
        predict(graph, [Latent(0, 1, 2)])
    with pytest.raises(SettingError, match="no transcoder for layer 0"):
        intervene(model, tokens, {}, [[Latent(0, 1, 2)]])
