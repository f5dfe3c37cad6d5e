"""Generation with edits and a KV cache, against running the whole sequence again for every token."""

from collections.abc import Callable, Sequence
from dataclasses import replace as replace_fields

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from workbench.edits import Edit, ablate, add, project_out, replace, scale
from workbench.errors import EditError, PromptError, SettingError, UnknownSite
from workbench.generation import Sampling
from workbench.model import HookedModel


def naive(model: HookedModel, prompt: Tensor, n_new: int, edits: Sequence[Edit]) -> list[int]:
    """Greedy continuation without a cache; a position that is not there yet is not edited yet."""
    tokens = prompt
    for _ in range(n_new):
        length = tokens.shape[1]
        reached = [
            replace_fields(edit, positions=[p for p in edit.positions if p < length])
            if isinstance(edit.positions, list)
            else edit
            for edit in edits
        ]
        logits = model.run(tokens, edits=reached).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    return tokens[0].tolist()


def random(*shape: int, seed: int = 7) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EDITS = {
    "none": [],
    "in the prompt": [add("blocks.0.hook_resid_post", random(32), positions=2)],
    "at generated positions": [add("blocks.1.hook_resid_post", random(32), positions=[9, 11, 14])],
    "from a position on": [replace("blocks.1.hook_attn_out", random(32), positions=slice(10, None))],
    "everywhere": [project_out("blocks.*.hook_resid_pre", random(32)), scale("blocks.0.hook_mlp_out", 2.0)],
    "on a head": [ablate("blocks.*.attn.hook_z", heads=1), scale("blocks.1.attn.hook_q", -2.0, heads=[0, 3])],
    "on keys and values": [
        add("blocks.0.attn.hook_k", random(8), heads=1, positions=[3, 10]),
        replace("blocks.1.attn.hook_v", random(8), heads=0, positions=[0, 9, 12]),
    ],
    "on patterns": [
        scale("blocks.*.attn.hook_pattern", 0.25, heads=[0, 2], positions=[4, 10, 11]),
        scale("blocks.2.attn.hook_attn_scores", 3.0, heads=1),
    ],
    "a mixture": [
        ablate("blocks.1.attn.hook_z", heads=2, positions=slice(5, 12)),
        add("blocks.1.hook_resid_post", random(32), positions=slice(1, None, 3)),
        scale("blocks.1.hook_resid_post", 0.5),
    ],
}


@pytest.mark.parametrize("kind", EDITS)
def test_edits_with_a_cache_are_edits_without(kind: str, model: HookedModel, prompt: Tensor) -> None:
    start = prompt[:1, :8]
    generation = model.generate(start, max_new_tokens=8, temperature=0, edits=EDITS[kind], stop_at_eos=False)
    assert generation.tokens.tolist() == naive(model, start, 8, EDITS[kind])


def test_greedy_text_is_that_of_hugging_face(model: HookedModel, reference: PreTrainedModel, prompt: Tensor) -> None:
    start = prompt[:1, :6]
    theirs = reference.generate(start, max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    ours = model.generate(start, max_new_tokens=10, temperature=0, stop_at_eos=False)
    assert ours.tokens.tolist() == theirs[0].tolist()


def test_negative_positions_count_from_the_end_of_the_prompt(hooked: Callable[[str], HookedModel]) -> None:
    model = hooked("llama")
    start = torch.arange(1, 9)
    pairs = [(-1, 7), ([-8, -2], [0, 6]), (slice(-3, None), slice(5, None)), (slice(-4, -1), slice(4, 7))]
    for negative, positive in pairs:
        texts = [
            model.generate(start, temperature=0, edits=[add("blocks.0.hook_resid_post", random(32), positions=chosen)])
            for chosen in (negative, positive)
        ]
        assert torch.equal(texts[0].tokens, texts[1].tokens)
    assert not torch.equal(texts[0].tokens, model.generate(start, temperature=0).tokens)


def test_a_seed_gives_a_text_and_leaves_the_global_generator_alone(hooked: Callable[[str], HookedModel]) -> None:
    model = hooked("gpt2")
    before = torch.get_rng_state()
    texts = [model.generate("The cat", seed=seed).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_generation_holds(hooked: Callable[[str], HookedModel]) -> None:
    model = hooked("gpt2")
    generation = model.generate("The cat sat", max_new_tokens=5, stop_at_eos=False)
    assert str(generation) == generation.text == model.to_string(generation.tokens)
    assert generation.text.startswith("The cat sat")
    assert torch.equal(generation.prompt_tokens, model.to_tokens("The cat sat")[0])
    assert len(generation.new_tokens) == 5
    assert generation.ended == "length"
    assert len(model.generate("The cat sat", max_new_tokens=0).new_tokens) == 0


def test_it_ends_at_an_end_of_sequence_token(hooked: Callable[[str], HookedModel], prompt: Tensor) -> None:
    model = hooked("gpt2")
    towards = 1000 * model.W_U[:, 0]  # token 0 is <|endoftext|>
    edits = [replace("ln_final.hook_normalized", towards / model.bridge.ln_final.weight, positions=[10])]
    generation = model.generate(prompt[0, :8], max_new_tokens=9, temperature=0, edits=edits)
    assert (generation.ended, len(generation.tokens), int(generation.tokens[-1])) == ("eos", 12, 0)
    onward = model.generate(prompt[0, :8], max_new_tokens=9, temperature=0, edits=edits, stop_at_eos=False)
    assert (onward.ended, len(onward.tokens)) == ("length", 17)


def test_it_ends_where_the_context_does(hooked: Callable[[str], HookedModel]) -> None:
    generation = hooked("llama").generate(torch.arange(60), max_new_tokens=32, stop_at_eos=False)
    assert (generation.ended, len(generation.tokens)) == ("context", 64)
    whole = hooked("llama").generate(torch.arange(64) % 50, stop_at_eos=False)
    assert (whole.ended, len(whole.new_tokens)) == ("context", 0)


def test_sampling_keeps_to_the_likeliest_tokens() -> None:
    logits = torch.tensor([1.0, 4.0, 2.0, 3.0])  # probabilities 0.03, 0.64, 0.09, 0.24
    generator = torch.Generator().manual_seed(0)

    def drawn(sampling: Sampling) -> set[int]:
        return {sampling.draw(logits, generator) for _ in range(300)}

    assert drawn(Sampling(temperature=0)) == {1}
    assert drawn(Sampling(top_k=1)) == {1}
    assert drawn(Sampling(top_k=2)) == {1, 3}
    assert drawn(Sampling(top_p=0.5)) == {1}
    assert drawn(Sampling(top_p=0.8)) == {1, 3}
    assert drawn(Sampling(top_p=0.9)) == {1, 2, 3}
    assert drawn(Sampling()) == {0, 1, 2, 3}
    assert drawn(Sampling(temperature=0.05)) == {1}


def test_sampling_follows_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(4000):
        counts[Sampling(temperature=2.0).draw(logits, generator)] += 1
    torch.testing.assert_close(counts / 4000, (logits / 2).softmax(-1), atol=0.03, rtol=0)


def test_what_cannot_be_generated(hooked: Callable[[str], HookedModel]) -> None:
    model = hooked("gpt2")
    for request, error, message in (
        ({"prompt": torch.zeros(65, dtype=torch.long)}, PromptError, "the prompt has 65 tokens"),
        ({"prompt": ["The cat", "The cat"]}, PromptError, "continues one prompt, and was given 2"),
        ({"prompt": "The", "temperature": -1.0}, SettingError, "temperature is -1.0"),
        ({"prompt": "The", "top_k": 0}, SettingError, "top_k is 0"),
        ({"prompt": "The", "top_p": 1.5}, SettingError, "top_p is 1.5"),
        ({"prompt": "The", "max_new_tokens": -1}, SettingError, "max_new_tokens is -1"),
        ({"prompt": "The", "edits": [ablate("blocks.9.hook_resid_post")]}, UnknownSite, "its layers are 0 to 2"),
        (
            {"prompt": torch.arange(5), "max_new_tokens": 4, "edits": [ablate("hook_embed", positions=9)]},
            EditError,
            "position 9 is outside the sequence of 9 positions",
        ),
    ):
        with pytest.raises(error, match=message):
            model.generate(**request)


def test_a_batch_ends_row_by_row(hooked: Callable[[str], HookedModel], prompt: Tensor) -> None:
    model = hooked("gpt2")
    towards = 1000 * model.W_U[:, 0]  # token 0 is <|endoftext|>
    value = torch.zeros(2, 1, 32)
    value[1, 0] = towards / model.bridge.ln_final.weight
    kept = model.run(prompt[:, :8], capture=["ln_final.hook_normalized"])["ln_final.hook_normalized"][:, -1:]
    value[0] = kept[0]
    edits = [replace("ln_final.hook_normalized", value, positions=[-1])]
    first, second = model.generate_batch(prompt[:, :8], max_new_tokens=4, temperature=0, edits=edits)
    assert (second.ended, len(second.new_tokens), int(second.tokens[-1])) == ("eos", 1, 0)
    assert (first.ended, len(first.new_tokens)) == ("length", 4)
    assert first.tokens.tolist() == model.generate(prompt[0, :8], max_new_tokens=4, temperature=0).tokens.tolist()


def test_texts_of_unequal_length_come_back_in_their_order(hooked: Callable[[str], HookedModel]) -> None:
    model, texts = hooked("llama"), ["The cat sat on the mat", "The", "The dog", "A cat", "The"]
    written = model.generate_batch(texts, max_new_tokens=3, seed=1)
    assert [one.text for one in written] == [
        model.generate(text, max_new_tokens=3, seed=1 + i).text for i, text in enumerate(texts)
    ]
    assert model.generate_batch([]) == []
    with pytest.raises(SettingError, match="batch_size is 0"):
        model.generate_batch(texts, batch_size=0)
