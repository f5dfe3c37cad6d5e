"""Neurons of Tinytown are spread over more concepts than the latents of its SAEs."""

import pytest
import torch

from saes.storage import load_sae
from workbench.activations import harvest, special_ids
from workbench.corpus import open_corpus
from workbench.model import load_model
from workbench.selectivity import compare, selectivity
from workbench.tinytown import SAE_DIR


@pytest.mark.parametrize("layer", [0, 3])
def test_neurons_are_more_polysemantic_than_latents(layer: int):
    model = load_model("tinytown")
    corpus = open_corpus("tinytown", model.tokenizer, split="held_out")
    stream, neurons = f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.mlp.hook_post"
    sae, skip = load_sae(SAE_DIR / stream), special_ids(model.tokenizer)
    batches = list(harvest(model, corpus, [neurons, stream], batch_size=16, n_tokens=6_000))
    labels = torch.cat([batch.labels[batch.mask(skip)] for batch in batches])
    with torch.no_grad():
        latents = torch.cat([sae.encode(batch.rows(stream, skip)) for batch in batches])
    rows = torch.cat([batch.rows(neurons, skip) for batch in batches])
    result = compare(
        selectivity("neurons", rows, labels, corpus.concepts), selectivity("latents", latents, labels, corpus.concepts)
    )
    medians = [one.effective[one.alive].median() for one in (result.first, result.second)]
    assert result.exceeds > 0.65
    assert result.p_value < 1e-20
    assert medians[0] > 1.4 * medians[1]
    several = [(one.answers[one.alive] > 1).float().mean() for one in (result.first, result.second)]
    assert several[0] > several[1]
