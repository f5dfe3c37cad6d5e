"""Edges of each position for themselves, against the model's own run with edits."""

from dataclasses import replace as changed

import pytest
import torch

from circuits.experiment import Experiment
from circuits.positions import check_aligned
from tests.checkpoints import ARCHITECTURES
from tests.circuits.conftest import random_pairs
from workbench.edits import replace
from workbench.errors import SettingError
from workbench.metrics import PROBABILITY_DIFFERENCE

LAYER, HEAD, AT = 1, 2, 5


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma2"])
def test_a_head_taken_away_at_one_position(experiment, model, pairs):
    site = f"blocks.{LAYER}.attn.hook_z"
    value = model.run(pairs.corrupted, capture=[site])[site][:, AT, HEAD]
    truth = model.run(pairs.clean, edits=[replace(site, value[:, None, None], positions=[AT], heads=[HEAD])]).logits
    circuit = experiment.graph.edges.repeat(experiment.length, 1, 1)
    circuit[AT, :, experiment.graph.sources.index(f"a{LAYER}.h{HEAD}")] = False
    ((_, logits),) = experiment.logits(circuit[None])
    assert torch.allclose(logits[0], truth[:, -1], atol=2e-5)
    assert not torch.allclose(logits[0], model.run(pairs.clean).logits[:, -1], atol=1e-4)


def test_what_is_pruned_at_a_position_did_nothing(experiment, architecture):
    """But for what it had in a norm that the heads of a layer share (Gemma 2)."""
    edges = experiment.graph.edges
    generator = torch.Generator().manual_seed(0)
    circuit = edges & (torch.rand(experiment.length, *edges.shape, generator=generator) < 0.1)
    pruned = experiment.graph.prune(circuit)
    assert 0 < pruned.sum() < circuit.sum()
    alike = torch.allclose(*experiment.values(torch.stack([circuit, pruned])), atol=1e-5)
    assert alike == (architecture != "gemma2")
    whole = experiment.graph.prune(edges.expand(experiment.length, -1, -1))
    assert not whole[:-1, -1].any()  # logits that nobody reads
    assert torch.allclose(experiment.values(whole[None])[0], experiment.clean, atol=1e-5)


def test_positions_that_mean_different_things_are_refused():
    one = changed(random_pairs(), positions={"name": 2})
    check_aligned([one, one], "task")
    for other in (changed(one, positions={"name": 3}), random_pairs(length=8)):
        with pytest.raises(SettingError, match="in the 2 sentences of task; take one of them, --sentence 1 to"):
            check_aligned([one, other], "task")


def test_groups_that_are_joined_keep_their_choices_and_names(hooked):
    generator = torch.Generator().manual_seed(0)
    choices = torch.arange(20, 30)
    groups = []
    for seed in (1, 2):
        right = torch.rand(4, 10, generator=generator) < 0.5
        pairs = random_pairs(seed=seed)
        groups.append(changed(pairs, choices=choices, right=right, positions={"a": 2, "b": seed}, pattern="x"))
    together = Experiment(hooked("llama"), groups, PROBABILITY_DIFFERENCE)
    apart = [Experiment(hooked("llama"), group, PROBABILITY_DIFFERENCE).clean for group in groups]
    assert torch.allclose(together.clean, torch.cat(apart), atol=1e-6)
    assert [(len(group), group.positions, group.pattern) for group in together.groups] == [(8, {"a": 2}, "x")]
    other = changed(groups[1], choices=choices + 1)
    assert [len(group) for group in Experiment(hooked("llama"), [groups[0], other]).groups] == [4, 4]
