"""Routers against what Hugging Face says of its own."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from workbench.corpus import open_corpus
from workbench.errors import ModelError
from workbench.routing import routing

TEXT = "The cat sat on the mat, and the dog ran after the cat. Where is the café?\n" * 30


@pytest.fixture
def corpus(hooked, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return open_corpus(tmp_path / "text.txt", hooked("mixtral").tokenizer, context=16)


def test_load_and_entropy_are_the_routers_own(hooked, checkpoint, corpus):
    result = routing(hooked("mixtral"), corpus, n_tokens=10**9, k=3, batch_size=8)
    reference = AutoModelForCausalLM.from_pretrained(checkpoint("mixtral")).eval()
    probs, kept = [], []
    for batch in corpus.batches(64):
        with torch.no_grad():
            logits = reference(batch.tokens, output_router_logits=True).router_logits
        keep = batch.mask((0,))
        kept.append(batch.tokens[keep])
        probs.append(torch.stack([layer.view(*keep.shape, 4)[keep].softmax(-1) for layer in logits]))
    probs, tokens = torch.cat(probs, 1), torch.cat(kept)
    chosen = torch.zeros_like(probs).scatter(2, probs.topk(2).indices, 1.0)
    assert result.n_tokens == len(tokens)
    torch.testing.assert_close(result.load, chosen.mean(1))
    torch.testing.assert_close(result.load.sum(1), torch.full((3,), 2.0))
    torch.testing.assert_close(result.probability, probs.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.entropy, torch.special.entr(probs).sum(-1).mean(1), atol=1e-5, rtol=1e-4)
    best = result.top_tokens[1, 2, 0]
    assert result.top_shares[1, 2, 0].item() == pytest.approx(chosen[1, tokens == best, 2].mean().item())
    first = probs[0].argmax(-1)
    joint = torch.zeros(4, 300, dtype=torch.double)
    joint.index_put_((first, tokens), torch.full((len(tokens),), 1 / len(tokens), dtype=torch.double), accumulate=True)
    conditional = torch.special.entr(joint).sum() - torch.special.entr(joint.sum(0)).sum()
    information = torch.special.entr(joint.sum(1)).sum() - conditional
    assert result.information[0].item() == pytest.approx(information.item(), abs=1e-5)


def test_a_model_without_routers_is_refused(hooked, corpus):
    with pytest.raises(ModelError, match="is not a mixture of experts"):
        routing(hooked("llama"), corpus)
