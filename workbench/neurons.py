"""The neurons of a model's MLPs: what each does over a corpus, all of them in one pass.

A neuron's activation is what its output row is multiplied with, the site `mlp.hook_post`: after the non-linearity and,
in a gated MLP, after the product with the linear half, so that it may be far below zero as well.
"""

from collections.abc import Callable, Sequence

import torch

from workbench.activations import harvest, special_ids
from workbench.corpus import Corpus
from workbench.errors import SettingError
from workbench.model import HookedModel
from workbench.unit_activity import ActivityGatherer, UnitActivity
from workbench.weights import mlp_weights

NEURONS = "blocks.{}.mlp.hook_post"


@torch.no_grad()
def neuron_activity(
    model: HookedModel,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    n_tokens: int = 100_000,
    n_examples: int = 10,
    batch_size: int = 16,
    on_progress: Callable[[int], None] | None = None,
) -> dict[int, UnitActivity]:
    """Every neuron of `layers` over about `n_tokens` text tokens (whole batches), by layer, in one pass.

    Padding and special tokens are read but not counted. Memory is that of a batch and, for each neuron, of its
    examples: 2 * n_examples * 33 tokens with their activations.
    Raises `ModelError` for a mixture of experts and for a layer that the model lacks; `SettingError`, `CorpusError`.
    """
    if n_tokens < 1 or n_examples < 1:
        raise SettingError(f"n_tokens is {n_tokens} and n_examples {n_examples}; both must be at least 1")
    gatherers = {
        layer: ActivityGatherer(NEURONS.format(layer), mlp_weights(model, layer).W_out.shape[0], n_examples)
        for layer in layers
    }
    if not gatherers:
        raise SettingError("no layer was named whose neurons to look at")
    skip, done = special_ids(model.tokenizer), 0
    sites = [NEURONS.format(layer) for layer in layers]
    for batch in harvest(model, corpus, sites, batch_size=batch_size):
        counted = batch.mask(skip)
        for layer, gatherer in gatherers.items():
            gatherer.update(batch, batch.activations[NEURONS.format(layer)], counted)
        done += int(counted.sum())
        if on_progress:
            on_progress(min(done, n_tokens))
        if done >= n_tokens:
            break
    return {layer: gatherer.result(model.token_strings) for layer, gatherer in gatherers.items()}
