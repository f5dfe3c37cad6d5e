"""What every architecture promises, and what each does of its own."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from saes.architectures import ARCHITECTURES
from saes.architectures.jumprelu import TANH_SCALE
from saes.config import Architecture, TrainConfig
from saes.sae import Signals, geometric_median, norm_scale
from saes.trainer import Trainer
from tests.saes.synthetic import Dictionary

NO_DEAD = Signals(torch.empty(0, dtype=torch.int64), 1.0)
DEAD = torch.tensor([3, 7, 8, 20, 21, 33, 39])
AUTOENCODERS = [name for name in ARCHITECTURES if "coder" not in name]
D_SAE, K = 40, 4


def widths(architecture):
    """What a training row is made of."""
    return {"transcoder": (10, 6), "crosscoder": (4, 6)}.get(architecture.rpartition("_")[2], (10,))


def config(architecture="topk", **settings):
    defaults = {"site": "blocks.0.hook_resid_post", "out": Path("nowhere"), "d_sae": D_SAE, "k": K}
    return TrainConfig(architecture=architecture, **(defaults | {"aux_coefficient": 1.0} | settings))


def make(architecture, seed=0, x=None, **settings):
    """An SAE in training whose biases, norms and thresholds are not what they start as."""
    x = rows_for(architecture) if x is None else x
    kind = ARCHITECTURES[architecture]
    sae = kind(kind.shape(config(architecture, **settings), widths(architecture), {}))
    sae.initialise(geometric_median(x), seed)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name not in ("W_enc", "W_dec", "b_dec"):
                parameter.add_(0.3 * torch.rand(parameter.shape, generator=generator))
        if architecture != "matching_pursuit":
            sae.W_dec.mul_(torch.linspace(0.5, 1.5, D_SAE)[:, None])
    return sae


def rows(n=64, d=10, seed=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def rows_for(architecture):
    return rows(d=sum(widths(architecture)))


def test_the_options_name_the_architectures():
    assert set(get_args(Architecture)) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_sae_takes_any_batch_shape(architecture):
    sae = make(architecture).eval()
    x, _ = sae.split(rows_for(architecture))
    latents = sae.encode(x)
    assert latents.shape == (64, 40)
    assert (latents >= 0).all()
    assert (latents > 0).any()
    torch.testing.assert_close(sae.encode(x.view(2, 32, -1)), latents.view(2, 32, 40))
    torch.testing.assert_close(sae.encode(x[0]), latents[0])
    skip = x @ sae.W_skip.T if "skip" in architecture else 0
    torch.testing.assert_close(sae(x), latents @ sae.W_dec + sae.b_dec + skip)


def top(scores, k):
    return scores >= scores.sort(descending=True).values[..., k - 1 : k]


def dense_pre(sae, x):
    centred = x - sae.b_dec if sae.cfg.apply_b_dec_to_input else x
    return centred @ sae.W_enc + (0 if hasattr(sae, "b_gate") else sae.b_enc)


def straight_through(pre, threshold, width):
    """(jump, step) whose gradients are written with detached windows: equations 11 and 12 of arXiv:2407.14435."""
    window = ((pre - threshold).abs() < width / 2).detach()
    open_, pull = (pre > threshold).detach(), (threshold.detach() - threshold) * window / width
    return pre.relu() * open_ + pull * threshold.detach(), open_ + pull


def reference_loss(architecture, sae, row, penalty):
    """The loss and latents written out with dense matrices and autograd alone, l1_coefficient 0.7, l0 0.3."""
    x, target = sae.split(row)
    norms = sae.W_dec.norm(dim=1)
    if architecture.endswith("crosscoder"):
        norms = sae.W_dec[:, :4].norm(dim=1) + sae.W_dec[:, 4:].norm(dim=1)
    skip = x @ sae.W_skip.T if "skip" in architecture else 0
    error = lambda z: ((z @ sae.W_dec + sae.b_dec + skip - target) ** 2).sum(1).mean()  # noqa: E731
    if architecture == "matching_pursuit":
        latents = pursue(sae, x)
        return error(latents), latents
    pre = dense_pre(sae, x)
    scores = (pre * norms).detach()
    if architecture.startswith("topk"):
        latents = pre.relu() * top(scores, K)
        return error(latents), latents
    if architecture.startswith(("batchtopk", "matryoshka")):
        latents = pre.relu() * top(scores.flatten(), K * len(x)).view_as(scores)
        nested = (2, 5, 10, 20) if architecture == "matryoshka" else ()
        return sum((error(latents * (torch.arange(D_SAE) < width)) for width in nested), error(latents)), latents
    if architecture.startswith("jumprelu"):
        threshold = sae.threshold * x.shape[1] ** 0.5
        latents, active = straight_through(pre, threshold, 0.5)
        if penalty == "tanh":
            latents = latents + (pre - pre.detach()) * threshold.detach() / 0.5 * ((pre - threshold).abs() < 0.25)
            active = (TANH_SCALE * latents * norms).tanh()
        cost = active.sum(1).mean()
        if penalty == "quadratic":
            cost = x.shape[1] * (cost / K - 1) ** 2
        return error(latents) + 0.3 * cost, latents
    if architecture == "gated":
        gate = pre + sae.b_gate
        latents = (pre * sae.r_mag.exp() + sae.b_mag).relu() * (gate > 0)
        return error(latents) + 0.7 * (gate.relu() * norms).sum(1).mean() + error(gate.relu()), latents
    latents = pre.relu()
    return error(latents) + 0.7 * (latents * norms).sum(1).mean(), latents


def pursue(sae, x):
    """Matching pursuit a row at a time."""
    coded = []
    for residual in x - sae.b_dec:
        latents, taken = torch.zeros(D_SAE, dtype=x.dtype), set()
        for _ in range(K):
            best = int((residual @ sae.W_dec.T).argmax())
            value = (residual @ sae.W_dec[best]).relu()
            latents = latents.index_add(0, torch.tensor([best]), value[None])
            residual = residual - value * sae.W_dec[best]
            if best in taken:
                break
            taken.add(best)
        coded.append(latents)
    return torch.stack(coded)


@pytest.mark.parametrize("dense_above", [0.0, 1.0])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "jumprelu l0", "jumprelu tanh"])
def test_gradients_equal_a_dense_reference(architecture, dense_above, monkeypatch):
    monkeypatch.setattr("saes.selection.DENSE_ABOVE", dense_above)
    architecture, _, penalty = architecture.partition(" ")
    penalty = penalty or "quadratic"
    settings = {"l1_coefficient": 0.7, "l0_coefficient": 0.3, "penalty": penalty}
    sae, x = make(architecture, **settings).double(), rows_for(architecture).double()
    step = sae.train_step(x, config(architecture, **settings), NO_DEAD)
    ours = torch.autograd.grad(step.loss, list(sae.parameters()))
    loss, latents = reference_loss(architecture, sae, x, penalty)
    reference = torch.autograd.grad(loss, list(sae.parameters()))

    torch.testing.assert_close(step.loss, loss)
    torch.testing.assert_close(step.l0, (latents > 0).sum(1).double().mean(), check_dtype=False)
    assert 0 < step.l0 < D_SAE
    assert torch.equal(step.fired, (latents > 0).any(0))
    for (name, _), grad, expected in zip(sae.named_parameters(), ours, reference, strict=True):
        assert expected.abs().max() > 1e-4, name
        torch.testing.assert_close(grad, expected, msg=name)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
def test_the_auxiliary_loss_reaches_the_encoder_of_dead_latents(architecture):
    """Against a dense reference: dead latents model the error of the live ones, which is a constant, without b_dec."""
    sae, x = make(architecture).double(), rows().double()
    error = torch.randn_like(x)
    ours = torch.autograd.grad(sae.auxiliary_loss(x, error, DEAD), list(sae.parameters()))

    pre = dense_pre(sae, x)[:, DEAD]
    latents = pre.relu() * top((pre * sae.W_dec.norm(dim=1)[DEAD]).detach(), 5)  # d_in / 2 of the seven
    loss = ((latents @ sae.W_dec[DEAD] - error) ** 2).sum() / (error**2).sum()
    reference = torch.autograd.grad(loss, list(sae.parameters()))
    for grad, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(grad, expected)
    assert ours[0][:, DEAD].norm() > 0.01


def test_the_auxiliary_loss_is_added_in_the_units_of_the_error():
    """Coefficient times variance times the fraction of the error that the dead latents leave."""
    sae, x = make("topk").double(), rows().double()
    plain = sae.train_step(x, config(), NO_DEAD)
    revived = sae.train_step(x, config(aux_coefficient=0.25), Signals(DEAD, 1.0))
    fraction = sae.auxiliary_loss(x, x - plain.reconstruction, DEAD)
    variance = ((x - x.mean(0)) ** 2).sum(1).mean()
    torch.testing.assert_close(revived.loss - plain.loss, 0.25 * variance * fraction)


def test_the_pre_activation_loss_lifts_dead_latents():
    sae, x = make("jumprelu").double(), rows().double()
    plain = sae.train_step(x, config("jumprelu"), NO_DEAD)
    lifted = sae.train_step(x, config("jumprelu", pre_act_coefficient=0.01), Signals(DEAD, 1.0))
    below = (sae.thresholds - dense_pre(sae, x)).relu() * sae.W_dec.norm(dim=1)
    torch.testing.assert_close(lifted.loss - plain.loss, 0.01 * below[:, DEAD].sum(1).mean())
    gradient = torch.autograd.grad(lifted.loss - plain.loss, sae.b_enc)[0]
    assert (gradient[DEAD] < 0).all()


def test_batchtopk_is_used_with_its_running_threshold():
    """The running mean of each batch's least score, 5% a step; saved as a JumpReLU that keeps what is above it."""
    sae, x = make("batchtopk"), rows()
    least = []
    for seed in range(3):
        pre = dense_pre(sae, rows(seed=seed)) * sae.W_dec.norm(dim=1)
        least.append(pre.flatten().sort(descending=True).values[K * 64 - 1].item())
        sae.train_step(rows(seed=seed), config("batchtopk"), NO_DEAD)
    expected = sum(value * 0.05 * 0.95 ** (2 - i) for i, value in enumerate(least))
    assert sae.topk_threshold.item() == pytest.approx(expected, rel=1e-5)
    used = sae.for_use().fold(1.0)
    assert used.architecture == "jumprelu"
    pre = (dense_pre(sae, x) * sae.W_dec.norm(dim=1)).detach()
    torch.testing.assert_close(used.encode(x), pre * (pre > expected))
    torch.testing.assert_close(used(x), sae.eval()(x))


def test_thresholds_stay_above_zero():
    sae = make("jumprelu")
    with torch.no_grad():
        sae.threshold.sub_(0.45)
    sae.constrain()
    assert sae.threshold.min() == 0 < sae.threshold.max()


def test_gradients_are_clipped_as_by_pytorch():
    """The same steps as clip_grad_norm_ before an unfused Adam, on weights, moments and all."""
    settings = config("standard", lr=0.01, warm_up=0.0, decay=0.0, l1_coefficient=0.5, clip=0.3)
    trainer, twin = (Trainer(settings, rows(256), {}) for _ in range(2))
    adam = torch.optim.Adam(twin.sae.parameters(), lr=0.01)
    for seed in range(4):
        trainer.step(rows(seed=seed))
        adam.zero_grad()
        twin.sae.train_step(rows(seed=seed) * twin.scale, settings, NO_DEAD).loss.backward()
        assert torch.nn.utils.clip_grad_norm_(twin.sae.parameters(), 0.3) > 1
        adam.step()
    for ours, reference in zip(trainer.sae.parameters(), twin.sae.parameters(), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-4)


def test_the_auxiliary_loss_revives_dead_latents():
    """Latents too faint to fire come to life with the auxiliary loss, and stay dead without it."""
    dictionary = Dictionary(n_features=64, d_in=32)

    def dead_after_training(coefficient):
        settings = config(
            d_sae=64, k=3, tokens=256 * 300, batch_size=256, dead_after=1024, aux_coefficient=coefficient, lr=3e-3
        )
        trainer = Trainer(settings, dictionary.rows(4096), {})
        with torch.no_grad():
            trainer.sae.W_enc[:, :32] *= 1e-3  # too faint to be among the top k
        for _ in range(settings.steps):
            trainer.step(dictionary.rows(256))
        return trainer.dead.sum().item()

    assert dead_after_training(0.0) >= 16
    assert dead_after_training(1 / 32) <= 6


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "standard", "jumprelu", "gated", "matching_pursuit"])
def test_training_recovers_a_known_dictionary(architecture):
    """96 features in 48 dimensions, three active at a time, are found to a cosine above 0.95."""
    dictionary = Dictionary()
    settings = {"d_sae": 128, "k": 3, "tokens": 256 * 1200, "batch_size": 256, "lr": 4e-3}
    settings = config(architecture, **settings)
    trainer = Trainer(settings, dictionary.rows(8192), {})
    assert dictionary.recovered(trainer.sae.W_dec) < 0.2
    for _ in range(settings.steps):
        trainer.step(dictionary.rows(256))
    assert dictionary.recovered(trainer.folded().W_dec) >= 0.97


def test_a_crosscoder_tells_shared_features_from_those_of_one_site():
    """Of 60 features in two sites, ten are at the first alone and ten at the second alone, whose scale is five times
    larger. All are found; a latent's decoder norms, in the scale of the sites, say where its feature is.
    """
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randn(60, d, generator=generator) for d in (32, 24))
    first, second = first / first.norm(dim=1, keepdim=True), 5 * second / second.norm(dim=1, keepdim=True)
    first[10:20], second[:10] = 0, 0
    features = torch.cat([first, second], 1)

    def world(n):
        scores = torch.rand(n, 60, generator=generator)
        strengths = 1 + torch.rand(n, 3, generator=generator)
        return torch.zeros_like(scores).scatter_(1, scores.topk(3).indices, strengths) @ features + 1

    settings = config("crosscoder", d_sae=96, tokens=256 * 400, batch_size=256, lr=4e-3, l1_coefficient=0.5)
    trainer = Trainer(settings, world(8192), {}, widths=(32, 24))
    for _ in range(settings.steps):
        trainer.step(world(256))
    sae, per_scale = trainer.folded(), torch.tensor([1.0] * 32 + [0.2] * 24)
    unit, true = ((rows * per_scale) / (rows * per_scale).norm(dim=1, keepdim=True) for rows in (sae.W_dec, features))
    cosine, latent = (true @ unit.T).max(1)
    assert cosine.min() > 0.95
    here, there = (part.norm(dim=1)[latent] for part in sae.parts(unit))
    share = here / (here + there)
    assert share[:10].min() > 0.98
    assert share[10:20].max() < 0.02
    assert ((share[20:] > 0.4) & (share[20:] < 0.6)).all()


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder", "topk_transcoder", "crosscoder"])
def test_several_sites_are_trained_on_side_by_side(architecture):
    """The second site is a linear map of the first, in another scale: most of its variance is explained."""
    dictionary = Dictionary(n_features=40, d_in=32)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(5))).Q[:, :20] * 9

    def both(n):
        x = dictionary.rows(n)
        return torch.cat([x, x @ turn], 1)

    settings = config(architecture, d_sae=64, k=8, tokens=256 * 200, batch_size=256, lr=4e-3, l1_coefficient=0.5)
    trainer = Trainer(settings, both(4096), {}, widths=(32, 20))
    for _ in range(settings.steps):
        trainer.step(both(256))
    sae, (x, y) = trainer.folded(), both(1000).split((32, 20), 1)
    out = sae(torch.cat([x, y], 1))[:, 32:] if architecture == "crosscoder" else sae(x)
    assert ((out - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum() < 0.2
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_leaves_the_function_unchanged(architecture):
    first, width = widths(architecture)[0], sum(widths(architecture))
    x, scale = rows(d=width) * 7, torch.full((width,), 0.37)
    scale[first:] = 1.6
    sae = make(architecture, x=x * scale).eval()
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(1.3)
    read, written = sae.split(scale)
    raw, _ = sae.split(x)
    latents, reconstruction = sae.encode(raw * read), sae(raw * read) / written
    norms = (sae.W_dec / written).norm(dim=1)
    folded = sae.for_use().fold(scale)
    torch.testing.assert_close(folded(raw), reconstruction, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded.encode(raw), latents * norms, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(40))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initialisation(architecture):
    x, kind = rows(500, sum(widths(architecture))), ARCHITECTURES[architecture]
    centre = geometric_median(x)

    def fresh(seed):
        return kind(kind.shape(config(architecture), widths(architecture), {})).initialise(centre, seed)

    sae = fresh(0)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    assert torch.equal(sae.W_dec, fresh(0).W_dec)
    assert not torch.equal(sae.W_dec, fresh(1).W_dec)
    read, written = sae.split(centre)
    torch.testing.assert_close(sae.b_dec, written)
    torch.testing.assert_close(written, sae.split(x)[1].median(0).values, atol=0.4, rtol=0)
    if hasattr(sae, "b_enc"):
        torch.testing.assert_close(dense_pre(sae, read), torch.zeros(40), atol=1e-5, rtol=0)
    if architecture == "topk":
        assert torch.equal(sae.W_enc, sae.W_dec.T)


def test_the_geometric_median_is_not_moved_by_outliers():
    """Of the corners of a square and a far point, it stays within the square; of a triangle, it is Fermat's point."""
    square = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1], [1000, 1000]])
    assert geometric_median(square).max() <= 1
    angles = torch.tensor([0.0, 2 * torch.pi / 3, 4 * torch.pi / 3])
    equilateral = torch.stack([angles.cos(), angles.sin()], dim=1) + 5
    torch.testing.assert_close(geometric_median(equilateral), torch.tensor([5.0, 5.0]))


def test_the_scale_brings_the_mean_distance_to_sqrt_d():
    x, centre = rows(1000), torch.ones(10)
    assert ((x - centre) * norm_scale(x, centre)).norm(dim=1).mean().item() == pytest.approx(10**0.5, rel=1e-5)


@pytest.mark.parametrize("architecture", ["topk", "standard", "matching_pursuit"])
def test_gradients_reach_the_input(architecture):
    """Attribution through a spliced SAE needs them."""
    sae, x = make(architecture).eval().double(), rows(4).double().requires_grad_()
    assert torch.autograd.gradcheck(sae, x)
