"""Roles of heads: known ones in planted models, path patching by hand, and what knock-outs do in Tinytown."""

import pytest
import torch

from circuits.ioi.evidence import looks
from circuits.ioi.paths import path_step, reading
from circuits.ioi.prompts import name_tokens, named_groups
from circuits.ioi.roles import (
    CURRENT,
    DUPLICATE,
    EVIDENCE,
    INDUCTION,
    NAME_MOVER,
    PREVIOUS,
    S_INHIBITION,
    SUPPRESSOR,
    Thresholds,
)
from circuits.ioi.search import ioi_roles
from tests.circuits.ioi import planted
from workbench.ablation import knock_out
from workbench.attention import PATTERN
from workbench.edits import ablate, replace
from workbench.errors import PromptError, SettingError
from workbench.figures import roles as figures
from workbench.model import HookedModel
from workbench.prompts import PromptPairs
from workbench.sweep import Place
from workbench.tinytown.tasks import task_prompts


def labelled(found) -> dict[str, list[tuple[int, int]]]:
    return {role: found.heads(role) for role in EVIDENCE if found.heads(role)}


def test_the_planted_duplicate_token_circuit_is_found_with_its_exact_effects():
    """Without the subject the name mover looks at all three names alike: a third for IO, two for S."""
    model = planted.planted((planted.UNUSED, planted.DUPLICATE_TOKEN), (planted.S_INHIBITION,), (planted.NAME_MOVER,))
    found = ioi_roles(model, planted.prompts())
    assert labelled(found) == {NAME_MOVER: [(2, 0)], S_INHIBITION: [(1, 0)], DUPLICATE: [(0, 1)]}
    assert [one.effect for one in found.roles] == pytest.approx([-1, -4 / 3, -4 / 3], abs=1e-5)
    attention = found.evidence.by_name
    assert attention[looks("end", "IO")][2, 0] == attention[looks("S2", "S1")][0, 1] == 1
    assert found.evidence.by_name["correlation"][2, 0] == pytest.approx(1, abs=1e-5)
    assert found.clean.tolist() == pytest.approx([1] * 24, abs=1e-5)


def test_the_planted_induction_circuit_is_found_with_its_previous_token_head():
    model = planted.planted(
        (planted.PREVIOUS_TOKEN, planted.UNUSED), (planted.INDUCTION,), (planted.S_INHIBITION,), (planted.NAME_MOVER,)
    )
    found = ioi_roles(model, planted.prompts())
    expected = {NAME_MOVER: [(3, 0)], S_INHIBITION: [(2, 0)], INDUCTION: [(1, 0)], PREVIOUS: [(0, 0)]}
    assert labelled(found) == expected
    assert [one.effect for one in found.roles] == pytest.approx([-1, -4 / 3, -4 / 3, -4 / 3], abs=1e-5)
    assert all(one.confirmed for one in found.roles if one.role != NAME_MOVER)


def test_without_s_inhibition_the_name_mover_looks_at_all_names_alike():
    model = planted.planted((planted.UNUSED, planted.DUPLICATE_TOKEN), (planted.S_INHIBITION,), (planted.NAME_MOVER,))
    found = ioi_roles(model, planted.prompts())
    (place,), (group, *_) = found.places(S_INHIBITION), named_groups(planted.prompts())
    with model.holding([ablate(place.site, heads=place.heads)]):
        pattern = model.run(group.clean, capture=[PATTERN]).stack(PATTERN)[2, :, 0, -1]
    names = pattern[:, [group.positions[name] for name in ("IO", "S1", "S2")]]
    torch.testing.assert_close(names, torch.full_like(names, 1 / 3))


def ordinary(model: HookedModel, n: int = 6) -> list[PromptPairs]:
    """Prompts of the form of the task, on which a model of random weights happens to say the right name."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(250, generator=generator)[:9] + 20 for _ in range(40 * n)])
    rows[:, 2::2] = torch.stack([torch.randperm(8, generator=generator)[:4] for _ in rows]) + 10
    rows[:, 6] = rows[:, 2]  # names at 2 and 4, and the first of them again at 6
    rows[:, 8] = 5
    logits = model.run(rows).logits[:, -1].cpu()
    answers, distractors = rows[:, 4], rows[:, 2]
    each = torch.arange(len(rows))
    keep = (logits[each, answers] > logits[each, distractors]).nonzero()[:n, 0]
    clean = rows[keep]
    return [PromptPairs("ioi", clean, clean, answers[keep], distractors[keep])]


def test_it_runs_on_every_architecture(model: HookedModel):
    found = ioi_roles(model, ordinary(model), thresholds=Thresholds(effect=0.0, backup=0.0))
    assert found.clean.mean() > 0
    assert all(step.effect.isfinite().all() for step in found.steps.values())
    assert "IOI roles in" in str(found)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(("what", "where"), [("q", "end"), ("k", "S2"), ("v", "S2")])
def test_an_effect_is_that_of_four_plain_runs(hooked, name: str, what: str, where: str):
    """One sender, one receiver: everything by single edits of whole runs; in llama two heads share keys and values."""
    model = hooked(name)
    (group,) = named_groups(ordinary(model))
    sender, receiver = (0, 1), (2, 3)
    step = path_step(model, [group], "one head", reading(model, [receiver], what, where))
    zs = [f"blocks.{layer}.attn.hook_z" for layer in range(model.info.n_layers)]
    own, other = (model.run(tokens, capture=zs) for tokens in (group.clean, group.corrupted))
    site = f"blocks.{receiver[0]}.attn.hook_{what}"
    frozen = [replace(z, own[z]) for z in zs]
    sent = replace(zs[sender[0]], other[zs[sender[0]]][:, :, [sender[1]]], heads=[sender[1]])
    arrived = model.run(group.clean, capture=[site], edits=[*frozen, sent])[site]
    head = receiver[1] // (1 if what == "q" or name == "gpt2" else 2)
    place = group.positions[where]
    given = replace(site, arrived[:, [place]][:, :, [head]], positions=[place], heads=[head])
    logits = model.run(group.clean, edits=[given]).logits[:, -1]
    rows = torch.arange(len(group))
    expected = logits[rows, group.answers] - logits[rows, group.distractors]
    torch.testing.assert_close(step.values[sender], expected, atol=1e-5, rtol=1e-4)
    assert (expected - step.whole).abs().max() > 1e-5


def test_what_is_held_is_an_edit_of_every_run(model: HookedModel, prompt):
    edit = ablate("blocks.1.attn.hook_z", heads=[2], positions=-1)
    expected = model.run(prompt, edits=[edit]).logits
    with model.holding([edit]):
        assert torch.equal(model.run(prompt).logits, expected)
    assert not torch.equal(model.run(prompt).logits, expected)


@pytest.fixture(scope="module")
def found(tinytown):
    return ioi_roles(tinytown, task_prompts("ioi", 96, seed=3)[:6])


def test_in_tinytown_every_label_has_its_evidence(found):
    """The bundled weights lower the name that stands at S2, which heads of layer 0 hand on from there."""
    assert set(found.heads(SUPPRESSOR)) == {(2, 2), (3, 2), (3, 3)}
    assert set(found.heads(CURRENT)) == {(0, 2), (0, 3)}
    assert found.heads(NAME_MOVER) == found.heads(S_INHIBITION) == []
    for one in found.roles:
        assert list(one.evidence) == list(EVIDENCE[one.role])
        assert one.interval[0] <= one.effect <= one.interval[1] < 0
        assert str(one) in str(found)


def test_knocking_out_the_labelled_heads_costs_more_than_any_others(found, tinytown):
    """As many heads of the same layers, not labelled, in every combination of a sample."""
    own = found.heads(SUPPRESSOR)
    generator = torch.Generator().manual_seed(0)
    others = {}
    for draw in range(12):
        picks = [
            (layer, [head for head in torch.randperm(4, generator=generator).tolist() if (layer, head) not in own][:n])
            for layer, n in ((2, 1), (3, 2))
        ]
        others[f"draw {draw}"] = [Place(f"blocks.{layer}.attn.hook_z", heads=heads) for layer, heads in picks]
    pairs = task_prompts("ioi", 64, seed=4)
    result = knock_out(tinytown, pairs, {"suppressors": found.places(SUPPRESSOR)} | others)
    low, high = result.interval
    assert high[0] < low[1:].min()
    assert result.raw[0] < 0.2 * result.whole.mean()


def test_without_the_heads_that_feed_them_suppressors_stop_telling_the_names_apart(found, tinytown):
    (group, *_) = named_groups(task_prompts("ioi", 64, seed=5)[:1])
    feed = [ablate(place.site, heads=place.heads, positions=[group.positions["S2"]]) for place in found.places(CURRENT)]
    rows = torch.arange(len(group))
    gaps = []
    for edits in ([], feed):
        logits = tinytown.run(group.clean, edits=edits).logits[:, -1]
        gaps.append((logits[rows, group.answers] - logits[rows, group.distractors]).mean().item())
    assert gaps[1] < 0.7 * gaps[0]


def test_other_names_are_three_new_ones():
    (group, *_) = groups = named_groups(planted.prompts(), seed=1)
    assert {len(part) for part in groups} == {12}
    assert group.positions == {"IO": 1, "S1": 3, "S1+1": 4, "S2": 5, "end": 6}
    names = set(name_tokens(groups).tolist())
    for clean, corrupted in zip(group.clean.tolist(), group.corrupted.tolist(), strict=True):
        new = [corrupted[place] for place in (1, 3, 5)]
        assert len(set(new)) == 3
        assert set(new) <= names
        assert not set(new) & set(clean)
        assert [corrupted[place] for place in (0, 2, 4, 6)] == [clean[place] for place in (0, 2, 4, 6)]


def test_what_is_no_such_prompt_is_refused(tinytown):
    with pytest.raises(PromptError, match="not one of indirect object identification"):
        ioi_roles(tinytown, task_prompts("capital", 16))
    (first, *_) = task_prompts("ioi", 64)
    with pytest.raises(PromptError, match="at least 5"):
        ioi_roles(tinytown, first[:1])
    swapped = PromptPairs("ioi", first.corrupted, first.corrupted, first.answers, first.distractors)
    with pytest.raises(PromptError, match="not one of"):
        ioi_roles(tinytown, swapped)
    with pytest.raises(SettingError, match="between 0 and 1"):
        Thresholds(effect=1.5)


def test_a_model_that_does_not_do_the_task_is_refused():
    model = planted.planted((planted.BOTH_NAMES,))
    with pytest.raises(PromptError, match="does not do this task"):
        ioi_roles(model, planted.prompts())


def test_figures_show_every_role_and_every_step(found):
    picture = figures.figure(found)
    drawn = {trace.name: len(trace.x) for trace in picture.data if trace.name}
    assert drawn == {role: len(heads) for role, heads in labelled(found).items()}
    for receivers, step in found.steps.items():
        heat = figures.step(found, receivers).data[0]
        assert torch.equal(torch.as_tensor(heat.z).float(), step.effect)
    assert set(figures.LOOKS) == set(EVIDENCE)
