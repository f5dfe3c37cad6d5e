"""The tuned lens: the identity is the logit lens, a step is autograd's, a short training beats the logit lens."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from workbench.cli.lens import command, train
from workbench.cli.main import run_command
from workbench.corpus import open_corpus
from workbench.errors import DamagedFile, ModelError, SettingError
from workbench.interrupt import Interrupt
from workbench.lens import logit_lens
from workbench.lens_kl import lens_kl
from workbench.lens_options import LensTrainOptions
from workbench.lens_training import CHECKPOINT_FILE, LensTrainer, train_lens
from workbench.model import HookedModel, load_model
from workbench.tuned_lens import TunedLens, load_tuned_lens, rows_of

TOKENS = torch.tensor([3, 1, 4, 1, 5, 9])


@pytest.fixture(scope="module")
def tinytown() -> HookedModel:
    return load_model("tinytown")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tinytown):
    """A lens after 20 steps: (directory, result)."""
    out = tmp_path_factory.mktemp("lens") / "lens"
    options = LensTrainOptions(out, tokens=10_000, context=64, eval_tokens=2_000, device="cpu")
    return out, train_lens(options, tinytown)


def random_lens(model: HookedModel) -> TunedLens:
    generator = torch.Generator().manual_seed(0)
    n, d = model.info.n_layers, model.info.d_model
    A, b = 0.1 * torch.randn(n, d, d, generator=generator), 0.1 * torch.randn(n, d, generator=generator)
    return TunedLens(A, b, model.fingerprint)


def test_the_identity_is_the_logit_lens(model: HookedModel):
    plain, tuned = logit_lens(model, TOKENS), logit_lens(model, TOKENS, tuned=TunedLens.identity(model))
    assert torch.equal(plain.top_probs, tuned.top_probs)
    assert torch.equal(plain.kl_to_final, tuned.kl_to_final)
    assert tuned.lens == "Tuned lens"


def test_each_row_is_translated_by_its_own_map_and_the_last_by_none(model: HookedModel):
    lens = random_lens(model)
    read = logit_lens(model, TOKENS, tuned=lens, k=4)
    for row, site in enumerate(rows_of(3)):
        resid = model.run(TOKENS[None], capture=[site])[site][0]
        if row < 3:
            resid = resid + torch.einsum("ij,pj->pi", lens.A[row], resid) + lens.b[row]
        expected = model.unembed(resid).softmax(-1).topk(4).values
        torch.testing.assert_close(read.top_probs[row], expected, atol=1e-6, rtol=1e-4)


def test_one_step_is_that_of_autograd(model: HookedModel, monkeypatch):
    """Adam on the KL written out anew, differentiated from end to end, in one piece; the trainer works in three."""
    monkeypatch.setattr("workbench.lens_kl.LOGITS_AT_ONCE", 4 * model.info.d_vocab)
    tokens = torch.randint(0, 300, (1, 10), generator=torch.Generator().manual_seed(2))
    run = model.run(tokens, capture=rows_of(3))
    rows = [run[site][0] for site in rows_of(3)]
    trainer = LensTrainer(model, lr=0.01, n_tokens=100)
    first, second = trainer.step(rows), trainer.step(rows)

    A = torch.zeros(3, 32, 32, requires_grad=True)
    b = torch.zeros(3, 32, requires_grad=True)
    optimizer = torch.optim.Adam([A, b], lr=0.01)
    final = run.logits[0].log_softmax(-1)
    losses = []
    for lr in (0.01, 0.009):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        read = [model.unembed(h + h @ A[i].T + b[i]).log_softmax(-1) for i, h in enumerate(rows[:3])]
        kls = torch.stack([(final.exp() * (final - r)).sum(-1).mean() for r in read])
        kls.sum().backward()
        optimizer.step()
        losses.append(kls.tolist())
    assert first.kl == pytest.approx(losses[0], rel=1e-4, abs=1e-6)
    assert second.kl == pytest.approx(losses[1], rel=1e-3, abs=1e-5)
    moved = A.detach().abs() > 1e-3  # Adam's first steps are signs: where a gradient is rounding, so is the step
    agree = (trainer.lens.A - A.detach()).abs()[moved] < 1e-4
    assert agree.float().mean() > 0.99
    assert all(parameter.grad is None for parameter in model.bridge.original_model.parameters())


def test_a_short_training_beats_the_logit_lens_at_every_layer(trained, tinytown):
    out, result = trained
    assert result.report.labels == ["embed", "0", "1", "2"]
    assert result.report.tokens >= 2_000
    for logit, tuned in zip(result.report.logit, result.report.tuned, strict=True):
        assert tuned < 0.75 * logit
    held_out = open_corpus("tinytown", tinytown.tokenizer, context=64, split="held_out")
    again = lens_kl(tinytown, held_out, load_tuned_lens(out, tinytown), 2_000)
    assert again.tuned == pytest.approx(result.report.tuned, rel=1e-6)


def test_kl_is_that_of_whole_logits(tinytown):
    """The first context of the corpus, by hand."""
    corpus = open_corpus("tinytown", tinytown.tokenizer, context=32, split="held_out")
    lens = random_lens(tinytown)
    measured = lens_kl(tinytown, corpus, lens, 1)
    batch = next(corpus.batches(8))
    run = tinytown.run(batch.tokens, capture=rows_of(4))
    final, mask = run.logits.log_softmax(-1), batch.documents >= 0
    assert measured.tokens == mask.sum()
    for number, site in enumerate(rows_of(4)[:-1]):
        h = run[site]
        for resid, found in (
            (h, measured.logit[number]),
            (h + h @ lens.A[number].T + lens.b[number], measured.tuned[number]),
        ):
            expected = torch.nn.functional.kl_div(
                tinytown.unembed(resid).log_softmax(-1), final, log_target=True, reduction="none"
            ).sum(-1)[mask].mean()  # fmt: skip
            assert found == pytest.approx(expected.item(), rel=1e-4)


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, tinytown):
    options = LensTrainOptions(tmp_path / "whole", tokens=1_500, context=32, eval_tokens=200, device="cpu")
    train_lens(options, tinytown)
    interrupt = Interrupt()

    def stop(step):
        if step.tokens > 700:
            interrupt.request()

    halves = replace(options, out=tmp_path / "halves", resume=True)
    first = train_lens(halves, tinytown, on_step=stop, interrupt=interrupt)
    assert first.interrupted
    assert 700 < first.tokens < 1_500
    with pytest.raises(SettingError, match="unfinished training"):
        train_lens(replace(halves, resume=False), tinytown)
    with pytest.raises(SettingError, match="begun with seed 0, not 1"):
        train_lens(replace(halves, seed=1), tinytown)
    second = train_lens(halves, tinytown)
    whole = load_tuned_lens(tmp_path / "whole", tinytown)
    resumed = load_tuned_lens(tmp_path / "halves", tinytown)
    assert torch.equal(whole.A, resumed.A)
    assert torch.equal(whole.b, resumed.b)
    assert sorted(path.name for path in (tmp_path / "halves").iterdir()) == ["lens.json", "lens.safetensors"]
    assert train_lens(halves, tinytown).report == second.report


def test_a_damaged_checkpoint_is_told(tmp_path, tinytown):
    interrupt = Interrupt()
    interrupt.request()
    options = LensTrainOptions(tmp_path, tokens=6_000, context=32, device="cpu", resume=True)
    assert train_lens(options, tinytown, interrupt=interrupt).interrupted
    checkpoint = tmp_path / CHECKPOINT_FILE
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(DamagedFile, match=r"checkpoint\.safetensors"):
        train_lens(options, tinytown)


def test_a_lens_of_another_model_is_refused(trained, hooked):
    with pytest.raises(ModelError, match="trained on tinytown"):
        load_tuned_lens(trained[0], hooked("llama"))
    with pytest.raises(ModelError, match="has other weights"):
        logit_lens(hooked("llama"), TOKENS, tuned=load_tuned_lens(trained[0]))


def test_a_broken_lens_is_told(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "lens")
    weights = tmp_path / "lens" / "lens.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(DamagedFile, match=r"lens\.safetensors"):
        load_tuned_lens(tmp_path / "lens")
    shutil.copy(trained[0] / "lens.safetensors", weights)
    (tmp_path / "lens" / "lens.json").write_text("{}")
    with pytest.raises(DamagedFile, match="does not say which model"):
        load_tuned_lens(tmp_path / "lens")
    with pytest.raises(SettingError, match="holds no tuned lens"):
        load_tuned_lens(tmp_path)


def test_the_commands(trained, tmp_path, capsys):
    out, _ = trained
    prompt = "When Anna and Bob went to the river , Anna showed a coin to"
    assert run_command("lens", command, [prompt, "--tuned", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["lens"] == "Tuned lens"
    assert len(shown["labels"]) == 5
    assert run_command("lens", command, [prompt, "--read", "sublayers"]) == 0
    assert "L3 MLP" in capsys.readouterr().out
    assert run_command("lens", command, [prompt, "--tuned", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert run_command("lens", command, [prompt, "--tuned", str(out), "--read", "heads"]) == 1
    assert capsys.readouterr().err == "workbench: a tuned lens has a translator for each layer; it cannot read heads\n"
    assert run_command("lens train", train, ["--out", str(out)]) == 1
    assert "already holds a tuned lens" in capsys.readouterr().err
    assert run_command("lens train", train, ["--out", str(out), "--lr", "-1"]) == 2
    assert "lr must be above 0" in capsys.readouterr().err
    assert run_command("lens train", train, ["--out", str(tmp_path / "x"), "--model", "gpt2"]) == 2
    assert "corpus is needed" in capsys.readouterr().err
    arguments = ["--out", str(tmp_path / "new"), "--tokens", "500", "--eval-tokens", "100", "--context", "32"]
    assert run_command("lens train", train, arguments) == 0
    assert "tuned lens" in capsys.readouterr().out
