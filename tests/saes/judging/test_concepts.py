"""Concepts, absorption and splitting, on latents whose answers are known by hand or by brute force."""

import math

import numpy as np
import pytest
import torch

from saes.architectures import ARCHITECTURES
from saes.judging.concepts import LEVELS, ConceptJudge
from saes.judging.labelled import judge_labelled
from saes.sae import SAEConfig
from saes.synthetic.world import preset, sample
from tests.saes.test_synthetic import built
from workbench.errors import CorpusError

N = 4000


def judged(latents, labels, concepts, W_dec=None):
    """The report on latents and labels that are the same in both halves."""
    judge = ConceptJudge(torch.eye(latents.shape[1]) if W_dec is None else W_dec, concepts)
    for part in torch.arange(N).split(1000):
        judge.choose(latents[part], labels[part])
    for part in torch.arange(N).split(1000):
        judge.measure(latents[part], labels[part])
    return judge.report()


def columns(*conditions):
    return torch.stack([torch.as_tensor(condition) for condition in conditions], dim=1)


TOKEN = torch.arange(N)
ANIMAL, CAT = TOKEN % 10 < 4, TOKEN % 10 < 1
"""Every cat is an animal: a quarter of the animals are cats."""


def test_best_f1_by_brute_force():
    """Every latent at every threshold, chosen on one half and measured on the other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(N, 5, generator=generator) < 0.2
    signal = labels.float() @ torch.rand(5, 12, generator=generator)
    latents = (signal + torch.randn(N, 12, generator=generator) - 0.5).relu()
    judge = ConceptJudge(torch.eye(12), tuple("abcde"))
    first, second = slice(0, N // 2), slice(N // 2, N)
    judge.choose(latents[first], labels[first])
    judge.measure(latents[second], labels[second])
    found = {result.concept: result for result in judge.report().concepts}

    def f1(detected, truth):
        return 2 * (detected & truth).sum() / max(detected.sum() + truth.sum(), 1)

    z, y = latents.numpy(), labels.numpy()
    scale = z[first].max(0)
    for c, concept in enumerate("abcde"):
        best = max(
            (f1((z[first, i] > 0) & (z[first, i] >= t / LEVELS * scale[i]), y[first, c]), i, t)
            for i in range(12)
            for t in range(LEVELS)
        )
        detected = (z[second, best[1]] > 0) & (z[second, best[1]] >= best[2] / LEVELS * scale[best[1]])
        assert found[concept].latent == best[1]
        assert found[concept].f1 == pytest.approx(f1(detected, y[second, c]))
        assert found[concept].recall == pytest.approx((detected & y[second, c]).sum() / y[second, c].sum())
        assert found[concept].precision == pytest.approx((detected & y[second, c]).sum() / detected.sum())


def test_a_latent_for_each_concept():
    report = judged(columns(ANIMAL, CAT).float(), columns(ANIMAL, CAT), ("animal", "cat"))
    assert (report.coverage, report.mean_f1, report.absorption, report.splits) == (1, 1, 0, 1)
    (pair,) = report.implications
    assert (pair.child, pair.parent, pair.recall_inside, pair.recall_outside) == ("cat", "animal", 1, 1)


def test_absorption():
    """The animal latent is silent on 90% of cats, where the cat latent, which writes animal too, fires."""
    exception = CAT & (TOKEN % 100 < 10)
    latents = columns((ANIMAL & ~CAT) | exception, CAT).float()
    W_dec = torch.eye(32)[:2].clone()
    W_dec[1, 0] = 1
    report = judged(latents, columns(ANIMAL, CAT), ("animal", "cat"), W_dec)
    (pair,) = report.implications
    assert pair.absorption == pytest.approx(0.9)
    assert (pair.recall_inside, pair.recall_outside) == (pytest.approx(0.1), 1)
    assert report.absorption == pytest.approx(0.9)


def test_a_hole_that_nothing_fills_is_no_absorption():
    """The same, but the cat latent's direction has nothing of animal in it."""
    report = judged(columns(ANIMAL & ~CAT, CAT).float(), columns(ANIMAL, CAT), ("animal", "cat"), torch.eye(32)[:2])
    assert report.absorption == 0
    assert report.implications[0].recall_inside == 0


def test_absorption_is_undefined_without_a_parent_latent():
    kinds = columns(*(i == TOKEN % 10 for i in range(4))).float()
    report = judged(kinds, columns(ANIMAL, CAT), ("animal", "cat"))
    assert math.isnan(report.implications[0].absorption)
    assert math.isnan(report.absorption)


def test_splitting():
    """Four latents that share animals out among them; a fifth repeats one of them and counts for nothing."""
    kinds = columns(*(i == TOKEN % 10 for i in range(4)), TOKEN % 10 == 2).float()
    report = judged(kinds, columns(ANIMAL, CAT), ("animal", "cat"))
    splits = {result.concept: result.splits for result in report.concepts}
    assert splits == {"animal": 4, "cat": 1}
    assert report.splits == 4


def test_only_strict_and_common_implications():
    """Equal concepts imply each other, and say nothing; a single exception is enough; rare ones are left out."""
    almost = CAT & ~((TOKEN == 0) | (TOKEN == 10)) | (TOKEN == 5)
    rare = TOKEN % 400 == 0
    report = judged(
        columns(ANIMAL, CAT).float(), columns(ANIMAL, ANIMAL, almost, rare), ("animal", "beast", "almost", "rare")
    )
    assert report.implications == []
    assert len(report.concepts) == 3


def test_a_hierarchical_world():
    """Perfect latents absorb nothing. Where each child takes its parent along, the parent's latent has a hole."""
    world = preset("hierarchical")
    W_dec = world.directions
    concepts = tuple(f"{'parent' if p < 0 else 'child'}{i}" for i, p in enumerate(world.parent.tolist()))
    strengths = [sample(world, 8_000, torch.Generator().manual_seed(seed)).strengths for seed in (0, 1)]

    def report(latents_of, decoder):
        judge = ConceptJudge(decoder, concepts)
        judge.choose(latents_of(strengths[0]), strengths[0] > 0)
        judge.measure(latents_of(strengths[1]), strengths[1] > 0)
        return judge.report()

    perfect = report(lambda s: s, W_dec)
    assert len(perfect.implications) == 72
    assert (perfect.coverage, perfect.absorption, perfect.splits) == (1, 0, 1)

    def absorbing(s):
        families = s.view(-1, 24, 4).clone()
        families[..., 0] *= families[..., 1:].sum(2) == 0
        return families.view(-1, 96)

    compound = W_dec + torch.where(world.parent[:, None] >= 0, W_dec[world.parent.clamp_min(0)], 0)
    absorbed = report(absorbing, compound)
    assert absorbed.absorption > 0.9
    assert absorbed.splits > 2


def test_completeness_by_numpy():
    """An SAE without the last two of four orthogonal features: they are read from the error, the others are not."""
    generator = np.random.default_rng(0)
    labels = generator.random((2, N, 4)) < 0.3
    noise = 0.1 * generator.standard_normal((2, N, 6))
    x = (labels @ np.eye(4, 6) + noise).astype(np.float32)
    sae = built(torch.eye(6)[:2], bias=-0.3)
    halves = [
        [(torch.from_numpy(x[h][part]), torch.from_numpy(labels[h][part])) for part in np.split(np.arange(N), 4)]
        for h in (0, 1)
    ]
    found = judge_labelled(sae, iter(halves[0]), iter(halves[1]), tuple("abcd")).completeness
    with torch.no_grad():
        x_hat = sae(torch.from_numpy(x)).numpy()
    for name, z in (("activation", x), ("reconstruction", x_hat), ("error", x - x_hat)):
        z = np.concatenate([np.ones((2, N, 1)), z], axis=2)
        weights = np.linalg.lstsq(z[0], labels[0].astype(float), rcond=None)[0]
        residual = ((labels[1] - z[1] @ weights) ** 2).sum(0)
        expected = 1 - residual / ((labels[1] - labels[1].mean(0)) ** 2).sum(0)
        assert getattr(found, name).tolist() == pytest.approx(expected, abs=0.01)
    assert found.error[2:].min() > 0.9
    assert found.reconstruction[2:].max() < 0.05
    assert found.activation.min() > 0.9


def test_nothing_remains_in_the_error_of_the_identity():
    """Rounding errors are there, but too small to count."""
    labels = torch.rand(N, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    x = labels.float() @ torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    both = torch.cat([torch.eye(8), -torch.eye(8)])
    found = judge_labelled(built(both), iter([(x, labels)]), iter([(x, labels)]), tuple("abc")).completeness
    assert found.activation.tolist() == pytest.approx([1, 1, 1], abs=0.01)
    assert found.remaining == pytest.approx(0, abs=0.01)


def test_a_transcoder_is_asked_for_what_it_writes():
    """It reads one concept and is to write another: its reconstruction tells the first, its error the second."""
    labels = torch.rand(N, 2, generator=torch.Generator().manual_seed(0)) < 0.3
    read, written = labels[:, :1].float() * torch.ones(1, 3), labels.float()
    sae = ARCHITECTURES["transcoder"](SAEConfig(3, 1, apply_b_dec_to_input=False, d_out=2)).requires_grad_(False)
    sae.W_enc.fill_(1 / 3)
    sae.W_dec.copy_(torch.tensor([[1.0, 0.0]]))
    rows = torch.cat([read, written], 1)
    found = judge_labelled(sae, iter([(rows, labels)]), iter([(rows, labels)]), ("read", "other"))
    assert found.completeness.activation.tolist() == pytest.approx([1, 1], abs=0.01)
    assert found.completeness.reconstruction.tolist() == pytest.approx([1, 0], abs=0.01)
    assert found.completeness.error.tolist() == pytest.approx([0, 1], abs=0.01)
    assert {result.concept: result.f1 for result in found.concepts.concepts}["read"] == 1


def test_too_little_text():
    with pytest.raises(CorpusError, match="too few labelled tokens"):
        judge_labelled(built(torch.eye(2)), iter([]), iter([]), ("a",))
