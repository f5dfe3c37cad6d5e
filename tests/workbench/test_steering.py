"""Steering, against hooks put by hand into Hugging Face's model, and against its own definition."""

import pytest
import torch

from workbench.directions import Direction, activation_difference, contrast_direction
from workbench.edits import clamp
from workbench.errors import EditError, ModelError, SettingError
from workbench.steering import steer, steering_edit

SITE = "blocks.1.hook_resid_post"
CLOSE = {"atol": 1e-4, "rtol": 1e-3}


def vector(seed=3):
    return torch.randn(32, generator=torch.Generator().manual_seed(seed))


def blocks(reference):
    """The blocks of a Hugging Face model, wherever its family keeps them."""
    return next(m for m in reference.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)


def by_hand(reference, tokens, change):
    def hook(module, inputs, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = blocks(reference)[1].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return reference(tokens).logits
    finally:
        handle.remove()


def direction_of(model, start=0.0):
    return Direction("x", vector(), SITE, "mean", model.fingerprint, 1.0, start)


def test_adding_is_a_hook_in_hugging_face(model, reference, prompt):
    edit = steering_edit(direction_of(model), 2.5)
    expected = by_hand(reference, prompt, lambda h: h + 2.5 * vector())
    torch.testing.assert_close(model.run(prompt, edits=[edit]).logits, expected, **CLOSE)


def test_clamping_sets_the_component_and_nothing_else(model, reference, prompt):
    direction = direction_of(model, start=-1.5)
    unit = vector() / vector().norm()
    plain = model.run(prompt, capture=[SITE])[SITE]
    run = model.run(prompt, capture=[SITE], edits=[steering_edit(direction, 0.75, "clamp")])
    wanted = -1.5 + 0.75 * vector().norm()
    torch.testing.assert_close(run[SITE] @ unit, wanted.expand(2, 12), atol=1e-4, rtol=0)
    rest = torch.eye(32) - torch.outer(unit, unit)
    torch.testing.assert_close(run[SITE] @ rest, plain @ rest, atol=1e-4, rtol=0)
    expected = by_hand(reference, prompt, lambda h: h @ rest + wanted * unit)
    torch.testing.assert_close(run.logits, expected, **CLOSE)


def test_ablating_is_clamping_at_nothing(model, prompt):
    unit = vector() / vector().norm()
    run = model.run(prompt, capture=[SITE], edits=[steering_edit(direction_of(model), how="ablate")])
    torch.testing.assert_close(run[SITE] @ unit, torch.zeros(2, 12), atol=1e-5, rtol=0)
    again = model.run(prompt, edits=[clamp(SITE, vector(), 0.0)])
    torch.testing.assert_close(run.logits, again.logits, **CLOSE)


def test_clamping_at_chosen_positions_and_heads(hooked, prompt):
    model, site = hooked("llama"), "blocks.1.attn.hook_z"
    edit = clamp(site, vector()[:8], 2.0, positions=[3, -1], heads=1)
    plain, run = model.run(prompt, capture=[site]), model.run(prompt, capture=[site], edits=[edit])
    along = run[site] @ (vector()[:8] / vector()[:8].norm())
    torch.testing.assert_close(along[:, [3, 11], 1], torch.full((2, 2), 2.0), atol=1e-5, rtol=0)
    untouched = torch.ones(12, 4, dtype=torch.bool)
    untouched[[3, 11], 1] = False
    assert torch.equal(run[site][:, untouched], plain[site][:, untouched])
    with pytest.raises(EditError, match="clamp needs a direction"):
        clamp(site, torch.zeros(8))


def test_activation_addition_is_a_hook_at_the_first_positions_in_hugging_face(model, reference, prompt):
    direction = activation_difference(model, "the cat", "the mat", SITE)
    with torch.no_grad():
        states = [
            reference(model.to_tokens(text), output_hidden_states=True).hidden_states[2][0]
            for text in ("the cat", "the mat")
        ]
    rows = states[0] - states[1]

    def change(h):
        h = h.clone()
        h[:, : len(rows)] += 4 * rows
        return h

    run = model.run(prompt, edits=[steering_edit(direction, 4)])
    torch.testing.assert_close(run.logits, by_hand(reference, prompt, change), **CLOSE)
    written = model.generate(prompt[0], edits=[steering_edit(direction, 4)], temperature=0, max_new_tokens=3)
    tokens = prompt[:1]
    for _ in range(3):
        tokens = torch.cat([tokens, by_hand(reference, tokens, change)[:, -1:].argmax(-1)], dim=1)
    assert written.tokens.tolist() == tokens[0].tolist()


@pytest.mark.parametrize("how", ["add", "clamp", "ablate"])
def test_a_batch_is_steered_as_one_prompt_after_another(how, model, prompt):
    edit = steering_edit(direction_of(model), 1.5, how, positions=slice(2, None))
    prompts = [prompt[0, :6], prompt[1, :6], prompt[0, :9], prompt[1, 3:9]]
    settings = {"edits": [edit], "max_new_tokens": 6, "temperature": 0.8, "stop_at_eos": False}
    together = model.generate_batch(prompts, seed=5, batch_size=2, **settings)
    for number, one in enumerate(together):
        alone = model.generate(prompts[number], seed=5 + number, **settings)
        assert one.tokens.tolist() == alone.tokens.tolist()
        assert (one.text, one.n_prompt, one.ended) == (alone.text, alone.n_prompt, alone.ended)


def test_without_and_with_side_by_side(hooked):
    model = hooked("gpt2")
    direction = contrast_direction(model, ["the cat"], ["a bridge"], SITE, name="cat")
    found = steer(model, direction, ["The dog", "The old stone"], 30.0, max_new_tokens=5, seed=3)
    assert found.plain[1].text == model.generate("The old stone", max_new_tokens=5, seed=4).text
    assert [one.tokens.tolist() for one in found.plain] != [one.tokens.tolist() for one in found.steered]
    assert str(found).startswith(f"add 30 × cat at {SITE}")
    assert str(found).count("steered") == 2


def test_what_cannot_be_steered(hooked):
    model = hooked("gpt2")
    rows = activation_difference(model, "the cat", "the mat", SITE)
    with pytest.raises(SettingError, match="no how='push'"):
        steering_edit(direction_of(model), how="push")
    with pytest.raises(SettingError, match="a vector for each position"):
        steering_edit(rows, how="clamp")
    with pytest.raises(ModelError, match="belongs to a model"):
        steer(hooked("llama"), rows, ["The"])
