"""On the bundled model: patching, its first-order preview and ablation name the same heads for indirect objects."""

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from workbench.ablation import ablation_study
from workbench.attribution_patching import attribution_patching, compare
from workbench.model import HookedModel, load_model
from workbench.patching import activation_patching
from workbench.path_patching import HEADS, path_patching
from workbench.prompts import PromptPairs
from workbench.tinytown.tasks import task_prompts

BY_HEAD = ("head",)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return load_model("tinytown")


@pytest.fixture(scope="module")
def pairs() -> list[PromptPairs]:
    return task_prompts("ioi", 64)


def strongest(effect: Tensor, n: int) -> set[int]:
    return set(effect.flatten().topk(n).indices.tolist())


def test_methods_agree_on_the_heads_that_matter(model: HookedModel, pairs: list[PromptPairs]) -> None:
    exact = activation_patching(model, pairs, HEADS, BY_HEAD)
    preview = attribution_patching(model, pairs, HEADS, BY_HEAD)
    mean, resample = (-ablation_study(model, pairs, HEADS, BY_HEAD, how=how).effect for how in ("mean", "resample"))
    agreement = compare(exact, preview)
    assert agreement.spearman > 0.9
    assert strongest(exact.effect, 5) == strongest(preview.effect, 5) == strongest(resample, 5)
    assert spearmanr(exact.effect.flatten(), mean.flatten()).statistic > 0.7


def test_heads_that_tell_the_logits_are_those_of_the_last_layers(model: HookedModel, pairs: list[PromptPairs]) -> None:
    """What the first layers do for the answer, they do through later heads; the last layer's do it themselves."""
    whole = activation_patching(model, pairs, HEADS, BY_HEAD, direction="noise").effect
    direct = path_patching(model, pairs).effect
    torch.testing.assert_close(direct[3], whole[3], atol=1e-4, rtol=0)
    assert whole[0].max() > 0.3
    assert direct[0].abs().max() < 0.01
