"""Patchscopes: the identity changes nothing, a hook on the plain model does the same, lenses are special cases."""

import pytest
import torch

from workbench.errors import PromptError, SettingError
from workbench.lens import logit_lens
from workbench.model import HookedModel, load_model
from workbench.patchscopes import patchscopes
from workbench.tuned_lens import TunedLens

SOURCE = torch.tensor([3, 1, 4, 1, 5, 9])
TARGET = torch.tensor([2, 7, 1, 8, 2])


def test_a_prompt_put_into_itself_is_unchanged(model: HookedModel):
    told = patchscopes(model, SOURCE, SOURCE).readings
    probs = model.run(SOURCE[None]).logits[0, -1].softmax(-1).topk(5).values
    torch.testing.assert_close(told.top_probs[:, -1], probs.expand(4, -1), atol=1e-6, rtol=1e-4)
    assert told.kl_to_final[:, -1].max() < 1e-6
    assert told.kl_to_final[:, 0].max() > 1e-4  # the activation of another position is another matter


def test_at_the_end_of_the_model_it_is_the_logit_lens(model: HookedModel):
    told, read = patchscopes(model, SOURCE, TARGET, layer=2).readings, logit_lens(model, SOURCE)
    torch.testing.assert_close(told.top_probs, read.top_probs, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(told.kl_to_final, read.kl_to_final, atol=1e-5, rtol=1e-4)
    assert torch.equal(told.next_rank, read.next_rank)
    assert told.labels == read.labels


def test_with_translators_there_it_is_the_tuned_lens(hooked):
    model, generator = hooked("gpt2"), torch.Generator().manual_seed(0)
    A, b = (0.1 * torch.randn(shape, generator=generator) for shape in ((3, 32, 32), (3, 32)))
    lens = TunedLens(A, b, model.fingerprint)
    told = patchscopes(model, SOURCE, TARGET, layer=2, mapping=lens.translate).readings
    torch.testing.assert_close(told.top_probs, logit_lens(model, SOURCE, tuned=lens).top_probs, atol=1e-6, rtol=1e-4)


def test_it_is_what_a_hook_on_hugging_faces_model_does(hooked, checkpoint):
    """Llama, source layer 0 into target layer 1 at position 2: three greedy tokens and the first distribution."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(checkpoint("llama")).eval()
    told = patchscopes(hooked("llama"), SOURCE, TARGET, position=2, layer=1, max_new_tokens=3, batch_size=4)
    with torch.no_grad():
        hidden = reference(SOURCE[None], output_hidden_states=True).hidden_states[1][0]
        for position in range(6):

            def insert(_module, _inputs, output, position=position):
                output[:, 2] = hidden[position]
                return output

            handle, tokens = reference.model.layers[1].register_forward_hook(insert), TARGET[None]
            first = reference(tokens).logits[0, -1].softmax(-1)
            for _ in range(3):
                tokens = torch.cat([tokens, reference(tokens).logits[:, -1:].argmax(-1)], dim=1)
            handle.remove()
            expected = first.topk(5).values
            torch.testing.assert_close(told.readings.top_probs[1, position], expected, atol=1e-6, rtol=1e-4)
            assert told.continuations[1][position] == hooked("llama").to_string(tokens[0, 5:])


NAMES = "James Peter Mark Simon Sarah Nora Henry Emma"
ASKING = "When Anna and Maya went to the river , Maya showed a coin to"
WHO = 2
"""The place of Anna in the tokens, whom Tinytown's answer names."""


def test_an_embedding_put_in_the_place_of_a_word_is_that_word():
    model = load_model("tinytown")
    told = patchscopes(model, NAMES, ASKING, position=WHO).readings
    texts = [ASKING.replace("Anna", name) for name in NAMES.split()]
    expected = model.run(texts).logits[:, -1].softmax(-1).topk(5)
    torch.testing.assert_close(told.top_probs[0, 1:], expected.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(told.top_tokens[0, 1:], expected.indices)


def test_a_prompt_that_asks_who_names_the_name_that_was_put_there():
    told = patchscopes(load_model("tinytown"), NAMES, ASKING, position=WHO, max_new_tokens=1)
    assert told.continuations[0][1:] == NAMES.split()
    assert set(told.continuations[-1]) == {"Anna"}  # after the last layer nothing looks there any more
    assert "Patchscopes of 'Emma'" in str(told)


def test_what_does_not_fit_is_refused(hooked):
    model = hooked("gpt2")
    with pytest.raises(SettingError, match=r"layers of .* are 0 to 2"):
        patchscopes(model, SOURCE, TARGET, layer=3)
    with pytest.raises(PromptError, match="position 5 is outside the target prompt of 5 tokens"):
        patchscopes(model, SOURCE, TARGET, position=5)
    with pytest.raises(PromptError, match="pass the 64 tokens"):
        patchscopes(model, SOURCE, TARGET, max_new_tokens=60)
