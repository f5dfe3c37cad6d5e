"""Fine-tuning: gradients against Hugging Face alone, what it gains, what it holds, what it leaves alone."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import sae_lens
import torch

import workbench.tinytown
from saes import cli
from saes.architectures import ARCHITECTURES
from saes.architectures.transcoder import Transcoder
from saes.comparison import compare_runs
from saes.config import FinetuneConfig
from saes.finetuner import Finetuner, Reconstruction, splice_losses
from saes.finetuning import finetune
from saes.hold import Hold
from saes.sae import SAEConfig
from saes.storage import load_sae, save_sae
from saes.training import train
from workbench.activations import special_ids
from workbench.cli.main import run_command
from workbench.corpus import open_corpus
from workbench.errors import DamagedFile, SettingError, TrainingError
from workbench.interrupt import Interrupt

SITE = "blocks.1.hook_resid_post"
D, D_SAE = 32, 48


@pytest.fixture
def model(hooked):
    return hooked("gpt2")


@pytest.fixture
def batch(model, text_file):
    """Tokens and which of them are text."""
    found = next(open_corpus(text_file, model.tokenizer, context=32).batches(6))
    keep = found.mask(special_ids(model.tokenizer))
    assert not keep.all()
    return found.tokens, keep


@pytest.fixture
def text_rows(model, batch):
    tokens, keep = batch
    return model.run(tokens, capture=[SITE])[SITE][keep]


def made(architecture, rows, **settings):
    """An SAE with random weights, as it would be after training."""
    cfg = SAEConfig(D, D_SAE, metadata={"hook_name": SITE}, **settings)
    sae = ARCHITECTURES[architecture](cfg).initialise(rows.mean(0), 0)
    return sae.fold(1.0).requires_grad_(False)


KINDS = {
    "topk": {"k": 5},
    "matching_pursuit": {"k": 5},
    "jumprelu": {"threshold": 0.3},
    "standard": {},
    "gated": {},
}


def by_hugging_face(model, tokens, keep, reconstruct):
    """KL, cross-entropy and FVU in a plain forward pass of the Hugging Face model with a hook of one line."""
    hf, kept = model.bridge.original_model, {}

    def hook(_, __, output):
        x = output[0] if isinstance(output, tuple) else output
        kept["x"] = x.detach()
        x = torch.where(keep[..., None], reconstruct(x.detach()), x.detach())
        return (x, *output[1:]) if isinstance(output, tuple) else x

    with torch.no_grad():
        clean = hf(tokens).logits
    handle = hf.transformer.h[1].register_forward_hook(hook)
    spliced = hf(tokens).logits
    handle.remove()
    wanted = keep[:, 1:]
    log_p, log_q = (logits[:, :-1].log_softmax(-1)[wanted] for logits in (clean, spliced))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    ce = -log_q.gather(1, tokens[:, 1:][wanted][:, None]).mean()
    x, x_hat = kept["x"][keep], reconstruct(kept["x"])[keep]
    return kl, ce, (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def by_hand(sae):
    """x to its reconstruction in dense textbook formulas, differentiable in the parameters."""
    p = dict(sae.named_parameters())

    def reconstruct(x):
        centred = x - p["b_dec"]
        if sae.architecture == "gated":
            gate = centred @ p["W_enc"] + p["b_gate"]
            latents = (gate > 0) * (centred @ p["W_enc"] * p["r_mag"].exp() + p["b_mag"]).relu()
            return latents @ p["W_dec"] + p["b_dec"]
        pre = centred @ p["W_enc"] + p["b_enc"]
        if sae.architecture == "topk":
            pre = pre * torch.zeros_like(pre).scatter(-1, pre.topk(5, dim=-1).indices, 1.0)
        elif sae.architecture == "jumprelu":
            pre = pre * (pre > p["threshold"])
        return pre.relu() @ p["W_dec"] + p["b_dec"]

    return reconstruct


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated"])
@pytest.mark.parametrize("which", ["kl", "ce", "fvu"])
def test_gradients_are_those_of_a_plain_hook_on_the_hugging_face_model(model, batch, text_rows, architecture, which):
    sae = made(architecture, text_rows, **KINDS[architecture])
    learnt = [one.requires_grad_() for name, one in sae.named_parameters() if name not in ("threshold", "b_gate")]
    ours = getattr(splice_losses(model, Reconstruction(sae), *batch), which)
    theirs = dict(zip(("kl", "ce", "fvu"), by_hugging_face(model, *batch, by_hand(sae)), strict=True))[which]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    for one, other in zip(*(torch.autograd.grad(loss, learnt) for loss in (ours, theirs)), strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * other.abs().max().item())


def test_the_losses_weigh_as_the_weight_says(model, batch, text_rows):
    losses = splice_losses(model, Reconstruction(made("topk", text_rows, k=5)), *batch)
    fvu = losses.fvu.item()
    for loss, prediction in (("kl", fvu), ("ce", fvu * losses.ce.item() / losses.kl.item())):
        for weight in (0.0, 1.0, 3.0):
            expected = (prediction + weight * fvu) / (1 + weight)
            assert losses.total(loss, weight).item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def trained(small):
    """`trained("gated")`: the directory of an SAE of the tiny GPT-2, trained for 100 steps."""

    def make(architecture="topk", **settings):
        config = small(architecture=architecture, tokens=100 * 128, l1_coefficient=0.5, **settings)
        train(config)
        return config.out

    return make


@pytest.fixture
def settings(tmp_path):
    """`settings(sae)`: a fine-tuning of 12 steps, in another directory at every call."""
    runs = iter(range(1000))

    def make(sae, **changes):
        sizes = {"tokens": 12 * 256, "batch_size": 256, "log_every": 2, "checkpoint_every": 5, "eval_tokens": 500}
        return FinetuneConfig(**{"sae": sae, "out": tmp_path / f"tuned{next(runs)}", "lr": 3e-3, **sizes, **changes})

    return make


def outcome(out):
    """What a run leaves, but for its times."""
    report = json.loads((out / "report.json").read_text())
    del report["training"]["seconds"]
    names = ("sae_weights.safetensors", "metrics.jsonl")
    return {name: (out / name).read_bytes() for name in names} | {"report": report, "files": sorted(os.listdir(out))}


@pytest.mark.parametrize("architecture", KINDS)
def test_only_the_sae_is_changed(model, batch, text_rows, settings, architecture, tmp_path):
    sae = made(architecture, text_rows, **KINDS[architecture])
    as_given = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in model.bridge.original_model.state_dict().items()}
    finetuner = Finetuner(settings(tmp_path), sae, model, text_rows, {})
    for _ in range(3):
        finetuner.step(*batch)
    tuned = finetuner.folded()
    assert all(
        not torch.equal(tuned.state_dict()[name], tensor) for name, tensor in as_given.items() if name != "r_mag"
    )
    assert all(torch.equal(sae.state_dict()[name], tensor) for name, tensor in as_given.items())
    assert all(torch.equal(model.bridge.original_model.state_dict()[name], tensor) for name, tensor in weights.items())
    assert all(parameter.grad is None for parameter in model.bridge.original_model.parameters())
    torch.testing.assert_close(tuned.norms(), torch.ones(D_SAE))


@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu", "batchtopk"])
def test_as_many_latents_fire_as_before(trained, settings, monkeypatch, architecture):
    """Within two percent, at a learning rate at which they would not."""
    config = settings(trained(architecture, k=32), tokens=50 * 256, eval_tokens=4000)
    held = finetune(config)
    monkeypatch.setattr("saes.finetuner.hold_for", Hold)
    free = finetune(settings(config.sae, tokens=50 * 256, eval_tokens=4000))
    drift, drift_free = (abs(result.after.l0 / result.before.l0 - 1) for result in (held, free))
    assert drift < 0.02
    assert drift_free > 2 * drift
    assert held.after.kl < 0.9 * held.before.kl


@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_the_bundled_model_misses_less_of_what_it_never_saw(tmp_path, loss):
    sae = Path(workbench.tinytown.__file__).parent / "saes" / "blocks.2.hook_resid_post"
    sizes = {"tokens": 6 * 2048, "batch_size": 2048, "eval_tokens": 2000}
    result = finetune(FinetuneConfig(sae, tmp_path / "tuned", loss=loss, lr=1e-3, **sizes))
    before, after = result.before, result.after
    assert before.l0 == pytest.approx(after.l0, rel=1e-3)
    assert after.kl < 0.9 * before.kl
    assert after.ce_spliced < before.ce_spliced
    assert after.fvu < 1.05 * before.fvu


def test_a_run_leaves_a_complete_directory(trained, settings, capsys):
    config = settings(trained(), checkpoint_every=0)
    seen = []
    result = finetune(config, on_progress=seen.append)
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12] == [metrics.step for metrics in seen]
    assert [line["lr"] for line in lines] == pytest.approx([3e-3 * left / 12 for left in (11, 9, 7, 5, 3, 1)])
    assert sorted(os.listdir(config.out)) == [
        "cfg.json",
        "config.yaml",
        "metrics.jsonl",
        "report.json",
        "sae_weights.safetensors",
    ]
    report = json.loads((config.out / "report.json").read_text())
    assert report["before"] == result.before.to_dict()
    assert {name: report[name] for name in result.after.to_dict()} == result.after.to_dict()
    metadata = load_sae(config.out).cfg.metadata
    assert (metadata["finetuned_from"], metadata["finetuning_loss"]) == (str(config.sae), "kl")
    assert sae_lens.SAE.load_from_disk(config.out).cfg.metadata.hook_name == SITE
    rows = compare_runs([config.sae, config.out]).rows
    assert {(row.name, row.architecture, row.l0) for row in rows} == {
        ("sae", "topk", result.before.l0),
        (config.out.name, "topk", result.after.l0),
    }
    assert finetune(replace(config, resume=True)) == result


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_an_interrupted_run_goes_on_to_the_same_bits(trained, settings, architecture):
    sae, interrupt = trained(architecture), Interrupt()
    whole, cut = settings(sae), settings(sae)
    finetune(whole)
    stopped = finetune(cut, on_progress=lambda metrics: metrics.step == 8 and interrupt.request(), interrupt=interrupt)
    assert (stopped.steps, stopped.interrupted) == (8, True)
    assert load_sae(cut.out / "checkpoints" / "step_0000008").cfg.d_sae == 64
    with pytest.raises(SettingError, match="holds an unfinished run; --resume goes on"):
        finetune(cut)
    with pytest.raises(SettingError, match=r"was begun with lr 0\.003, not 0\.1"):
        finetune(replace(cut, resume=True, lr=0.1))
    finetune(replace(cut, resume=True))
    assert outcome(cut.out) == outcome(whole.out)


def test_another_sae_is_not_gone_on_with(trained, settings):
    config, interrupt = settings(trained()), Interrupt()
    finetune(config, on_progress=lambda _: interrupt.request(), interrupt=interrupt)
    save_sae(load_sae(config.sae).fold(2.0), config.sae)
    with pytest.raises(SettingError, match=r"sae is not the sae that the run in .* was begun with: it has changed"):
        finetune(replace(config, resume=True))


def test_a_loss_that_is_not_finite_ends_the_run(trained, settings):
    config = settings(trained(), lr=1e30)
    with pytest.raises(
        TrainingError, match=r"no longer finite at step \d+ \(lr 1e\+30\); try a lower lr; no checkpoint"
    ):
        finetune(config)
    assert not (config.out / "cfg.json").exists()


def test_what_cannot_be_fine_tuned_is_refused(trained, settings, text_rows, tmp_path, checkpoint):
    sae = trained()
    with pytest.raises(SettingError, match="out is the directory of the SAE itself"):
        settings(sae, out=sae.parent / "." / sae.name)
    with pytest.raises(DamagedFile, match="is not the directory of an SAE"):
        finetune(settings(tmp_path / "nothing"))
    taken = settings(sae, out=tmp_path / "taken")
    save_sae(load_sae(sae), taken.out)
    with pytest.raises(SettingError, match="already holds an SAE"):
        finetune(taken)
    save_sae(Transcoder(SAEConfig(D, 8, apply_b_dec_to_input=False, d_out=D)), tmp_path / "transcoder")
    with pytest.raises(SettingError, match="is a transcoder, and only what writes where it reads"):
        finetune(settings(tmp_path / "transcoder"))
    save_sae(made("topk", text_rows, k=5), tmp_path / "nameless")
    with pytest.raises(SettingError, match="nameless does not say model; give it as an option"):
        finetune(settings(tmp_path / "nameless"))
    narrow = replace(SAEConfig(16, 8, 2), metadata=load_sae(sae).cfg.metadata)
    save_sae(ARCHITECTURES["topk"](narrow), tmp_path / "narrow")
    with pytest.raises(SettingError, match=r"takes 16 dimensions, and blocks\.1\.hook_resid_post of this model has 32"):
        finetune(settings(tmp_path / "narrow"))
    for changes, complaint in (({"lr": 0.0}, "lr must be above 0"), ({"tokens": 100}, r"at least batch_size \(256\)")):
        with pytest.raises(SettingError, match=complaint):
            settings(sae, **changes)


def test_as_typed(trained, settings, capsys):
    config = settings(trained())
    options = ["--out", str(config.out), "--tokens", "512", "--batch-size", "256", "--eval-tokens", "300"]
    assert run_command("sae finetune", cli.finetune, [str(config.sae), *options, "--loss", "ce"]) == 0
    printed = capsys.readouterr().out
    assert "Fine-tuned on 512 tokens" in printed
    assert "KL from untouched" in printed
    again = ["--config", str(config.out / "config.yaml"), "--out", str(config.out.with_name("again")), "--json"]
    assert run_command("sae finetune", cli.finetune, again) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["after"]["l0"] == pytest.approx(result["before"]["l0"], rel=0.02)
    first, second = (out / "sae_weights.safetensors" for out in (config.out, config.out.with_name("again")))
    assert first.read_bytes() == second.read_bytes()
    assert run_command("sae finetune", cli.finetune, [str(config.sae), *options]) == 1
    assert "already holds an SAE" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(trained, settings, capsys, monkeypatch):
    config, honest = settings(trained()), Finetuner.step

    def step(finetuner, *batch):
        if finetuner.steps == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(finetuner, *batch)

    monkeypatch.setattr(Finetuner, "step", step)
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in config.to_dict().items()
        if name in ("out", "tokens", "batch_size")
    ]
    assert run_command("sae finetune", cli.finetune, [str(config.sae), *options]) == 1
    said = "interrupted after 4 of 12 steps, which are kept; to go on: workbench sae finetune --config "
    assert said + f"{config.out / 'config.yaml'} --resume" in capsys.readouterr().err
