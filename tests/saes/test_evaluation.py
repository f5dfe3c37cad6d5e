"""Reports against computations made apart from the code that makes them."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from saes.architectures import ARCHITECTURES
from saes.architectures.standard import Standard
from saes.architectures.topk import TopK
from saes.evaluation import SAEReport, evaluate
from saes.sae import SAEConfig
from workbench.corpus import open_corpus
from workbench.errors import SettingError

SITE = "blocks.1.hook_resid_post"
D = 32


@pytest.fixture
def model(hooked):
    return hooked("gpt2")


@pytest.fixture
def corpus(model, text_file):
    return open_corpus(text_file, model.tokenizer, context=32)


def standard(W_enc, W_dec, b_dec=None):
    sae = Standard(SAEConfig(D, len(W_dec), apply_b_dec_to_input=False, metadata={"hook_name": SITE}))
    with torch.no_grad():
        sae.W_enc.copy_(W_enc)
        sae.W_dec.copy_(W_dec)
        sae.b_dec.copy_(torch.zeros(D) if b_dec is None else b_dec)
    return sae


def identity():
    """relu(x) - relu(-x) = x."""
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    return standard(both.T, both)


def constant(value):
    return standard(torch.zeros(D, 4), torch.zeros(4, D), value)


def by_hugging_face(model, corpus, n_tokens, replace=None):
    """Activations at text tokens, and log-probabilities where the next token is text, from Hugging Face's own model."""
    hf, special = model.bridge.original_model, model.tokenizer.bos_token_id
    rows, kept_log_probs, targets = [], [], []
    for batch in corpus.batches(32):
        keep = (batch.tokens != special) & (batch.documents >= 0)

        def hook(_, __, output, keep=keep):
            x = output[0] if isinstance(output, tuple) else output
            rows.append(x[keep].numpy().astype(np.float64))
            if replace is None:
                return None
            x = torch.where(keep[..., None], replace(x), x)
            return (x, *output[1:]) if isinstance(output, tuple) else x

        handle = hf.transformer.h[1].register_forward_hook(hook)
        with torch.no_grad():
            logits = hf(batch.tokens).logits
        handle.remove()
        log_probs = logits.double().log_softmax(-1)[:, :-1][keep[:, 1:]].numpy()
        kept_log_probs.append(log_probs)
        targets.append(batch.tokens[:, 1:][keep[:, 1:]].numpy())
        if sum(map(len, rows)) >= n_tokens:
            break
    return np.concatenate(rows), np.concatenate(kept_log_probs), np.concatenate(targets)


def cross_entropy(log_probs, targets):
    return -log_probs[np.arange(len(targets)), targets].mean()


def test_the_identity_loses_nothing(model, corpus):
    report = evaluate(identity(), model, corpus, 1000)
    assert report.fvu == pytest.approx(0, abs=1e-12)
    assert report.ce_spliced == pytest.approx(report.ce_clean, abs=1e-6)
    assert report.kl == pytest.approx(0, abs=1e-6)
    assert (report.cosine, report.norm_ratio) == (pytest.approx(1), pytest.approx(1))
    assert report.l0 == D  # each coordinate is positive or negative


STREAM = tuple(f"blocks.{layer}.hook_resid_post" for layer in (0, 1))


def exact(architecture, d, **where):
    """An SAE of ReLUs that gives back its d inputs: relu(x) - relu(-x) = x."""
    widths = {"widths": (D,) * (d // D)} if architecture == "crosscoder" else {"d_out": d}
    sae = ARCHITECTURES[architecture](SAEConfig(d, 2 * d, apply_b_dec_to_input=False, metadata=where, **widths))
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    with torch.no_grad():
        sae.W_enc.copy_(both.T)
        sae.W_dec.copy_(both)
    return sae.requires_grad_(False)


def test_an_exact_transcoder_loses_nothing(model, corpus):
    """What leaves a block is what enters the next."""
    same = {"hook_name": STREAM[0], "hook_name_out": "blocks.1.hook_resid_pre"}
    report = evaluate(exact("transcoder", D, **same), model, corpus, 1000)
    assert (report.fvu, report.kl, report.ce_spliced) == (0, 0, report.ce_clean)
    assert report.ce_zero != report.ce_clean
    assert report.sites == ()


def test_an_exact_crosscoder_loses_nothing_at_any_site(model, corpus):
    report = evaluate(exact("crosscoder", 2 * D, hook_names=STREAM), model, corpus, 1000)
    for one in (report, *report.sites):
        assert (one.fvu, one.kl, one.ce_spliced) == (0, 0, report.ce_clean)
    assert [site.site for site in report.sites] == list(STREAM)
    assert report.ce_zero == report.sites[1].ce_zero != report.sites[0].ce_zero
    assert SAEReport.from_dict(report.to_dict()) == report
    assert "blocks.1.hook_resid_post          0.0000  FVU; loss recovered 100.00%" in str(report)


def by_hooks(model, corpus, replacements):
    """Cross-entropy of Hugging Face's own model where `replacements[place](clean)` stands for the output of a module at
    text tokens: ("mlp", layer) is the output of an MLP; `clean` also has ("mid", layer), what enters the second norm.
    """
    hf, special = model.bridge.original_model, model.tokenizer.bos_token_id
    batch = next(iter(corpus.batches(32)))
    keep, clean = (batch.tokens != special) & (batch.documents >= 0), {}

    def record(place):
        def hook(module, inputs, output):
            clean[place] = inputs[0] if place[0] == "mid" else output

        return hook

    def put(place):
        return lambda module, inputs, output: torch.where(keep[..., None], replacements[place](clean), output)

    def run(hook, places):
        blocks = hf.transformer.h
        modules = [blocks[layer].ln_2 if name == "mid" else blocks[layer].mlp for name, layer in places]
        handles = [module.register_forward_hook(hook(place)) for module, place in zip(modules, places, strict=True)]
        with torch.no_grad():
            log_probs = hf(batch.tokens).logits.double().log_softmax(-1)[:, :-1][keep[:, 1:]]
        for handle in handles:
            handle.remove()
        return cross_entropy(log_probs.numpy(), batch.tokens[:, 1:][keep[:, 1:]].numpy())

    run(record, [(name, layer) for name in ("mid", "mlp") for layer in range(3)])
    return run(put, list(replacements))


def random(architecture, cfg, seed=0):
    sae = ARCHITECTURES[architecture](cfg).initialise(torch.zeros(cfg.d_in + (cfg.d_out or 0)), seed)
    return sae.requires_grad_(False)


def test_a_transcoder_is_spliced_in_for_the_mlp(model, corpus):
    where = {"hook_name": "blocks.1.hook_resid_mid", "hook_name_out": "blocks.1.hook_mlp_out"}
    sae = random("skip_transcoder", SAEConfig(D, 48, apply_b_dec_to_input=False, d_out=D, metadata=where))
    sae.W_skip.copy_(0.3 * torch.randn(D, D, generator=torch.Generator().manual_seed(2)))
    report = evaluate(sae, model, corpus, 100)
    assert report.ce_spliced == pytest.approx(
        by_hooks(model, corpus, {("mlp", 1): lambda clean: sae(clean["mid", 1])}), rel=1e-5
    )
    zero = by_hooks(model, corpus, {("mlp", 1): lambda clean: torch.zeros_like(clean["mlp", 1])})
    assert report.ce_zero == pytest.approx(zero, rel=1e-5)
    assert len({round(value, 6) for value in (report.ce_clean, report.ce_spliced, report.ce_zero)}) == 3


def test_a_crosscoder_is_spliced_in_at_each_site_and_at_all(model, corpus):
    """From the untouched activations of all sites, even where an earlier site is replaced too."""
    where = {"hook_names": ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")}
    sae = random("crosscoder", SAEConfig(2 * D, 48, widths=(D, D), metadata=where))
    put = {
        ("mlp", layer): lambda clean, layer=layer: sae(torch.cat([clean["mlp", 0], clean["mlp", 1]], -1)).split(D, -1)[
            layer
        ]
        for layer in (0, 1)
    }
    report = evaluate(sae, model, corpus, 100)
    assert report.ce_spliced == pytest.approx(by_hooks(model, corpus, put), rel=1e-5)
    for layer, site in enumerate(report.sites):
        alone = {("mlp", layer): put["mlp", layer]}
        assert site.ce_spliced == pytest.approx(by_hooks(model, corpus, alone), rel=1e-5)
    assert report.fvu == pytest.approx((report.sites[0].fvu + report.sites[1].fvu) / 2)


def test_a_transcoder_that_does_not_say_where_it_writes(model, corpus):
    with pytest.raises(SettingError, match="does not say at which site of the model it writes"):
        evaluate(exact("transcoder", D, hook_name=STREAM[0]), model, corpus, 100)


def test_zeros_recover_nothing(model, corpus):
    report = evaluate(constant(torch.zeros(D)), model, corpus, 1000)
    assert report.ce_spliced == report.ce_zero != report.ce_clean
    assert (report.l0, report.dead) == (0, 1)


def test_the_mean_explains_nothing(model, corpus):
    rows, _, _ = by_hugging_face(model, corpus, 1000)
    report = evaluate(constant(torch.tensor(rows.mean(0))), model, corpus, 1000)
    assert report.fvu == pytest.approx(1, abs=1e-6)
    assert report.explained_variance == pytest.approx(0, abs=1e-6)


def test_every_figure_against_numpy_and_hugging_face(model, corpus):
    x = torch.from_numpy(by_hugging_face(model, corpus, 4000)[0])
    sae = TopK(SAEConfig(D, 48, 3, metadata={"hook_name": SITE})).initialise(x.mean(0).float(), 0)
    sae.requires_grad_(False).b_enc[:12] = -100.0
    rows, clean, targets = by_hugging_face(model, corpus, 1000)
    _, spliced, _ = by_hugging_face(model, corpus, 1000, sae)
    _, zeroed, _ = by_hugging_face(model, corpus, 1000, torch.zeros_like)

    latents = sae.encode(torch.from_numpy(rows).float()).double().numpy()
    x_hat = latents @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    norms, norms_hat = np.linalg.norm(rows, axis=1), np.linalg.norm(x_hat, axis=1)

    report = evaluate(sae, model, corpus, 1000)
    assert report.n_tokens == len(rows)
    expected = {
        "l0": (latents > 0).sum(1).mean(),
        "fvu": ((rows - x_hat) ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum(),
        "cosine": ((rows * x_hat).sum(1) / norms / norms_hat).mean(),
        "norm": norms.mean(),
        "norm_ratio": (norms_hat / norms).mean(),
        "relative_bias": (x_hat**2).sum() / (rows * x_hat).sum(),
        "dead": (latents.max(0) == 0).mean(),
        "dense": ((latents > 0).mean(0) > 0.1).mean(),
        "ce_clean": cross_entropy(clean, targets),
        "ce_spliced": cross_entropy(spliced, targets),
        "ce_zero": cross_entropy(zeroed, targets),
        "kl": (np.exp(clean) * (clean - spliced)).sum(1).mean(),
        "kl_zero": (np.exp(clean) * (clean - zeroed)).sum(1).mean(),
    }
    assert {name: getattr(report, name) for name in expected} == pytest.approx(expected, rel=1e-4)
    assert report.dead >= 12 / 48


def report(**figures):
    names = {field.name for field in fields(SAEReport)} - {"corpus", "n_tokens", "d_sae", "sites"}
    return SAEReport(corpus="text", n_tokens=10, d_sae=8, **(dict.fromkeys(names, 0.0) | figures))


def test_loss_recovered():
    assert report(ce_clean=2.0, ce_spliced=2.0, ce_zero=6.0).loss_recovered == 1
    assert report(ce_clean=2.0, ce_spliced=6.0, ce_zero=6.0).loss_recovered == 0
    assert report(ce_clean=2.0, ce_spliced=3.0, ce_zero=6.0).loss_recovered == 0.75
    harmless = report(ce_clean=2.0, ce_spliced=3.0, ce_zero=2.0)
    assert math.isnan(harmless.loss_recovered)
    assert harmless.to_dict()["loss_recovered"] is None
    assert "zeroing does no harm" in str(harmless)


def test_kl_recovered():
    assert report(kl=0.5, kl_zero=2.0).kl_recovered == 0.75
    assert report(kl=0.0, kl_zero=0.0).to_dict()["kl_recovered"] is None


def test_an_sae_of_another_width_is_refused(model, corpus):
    sae = Standard(SAEConfig(16, 8, metadata={"hook_name": SITE}))
    with pytest.raises(SettingError, match=r"takes 16 dimensions, and blocks\.1\.hook_resid_post of this model has 32"):
        evaluate(sae, model, corpus, 100)


def test_an_attention_site_with_heads(model, corpus):
    """hook_z is [batch pos head d_head]; the SAE sees the heads side by side."""
    sae = identity()
    sae.cfg.metadata["hook_name"] = "blocks.1.attn.hook_z"
    assert evaluate(sae, model, corpus, 300).ce_spliced == pytest.approx(evaluate(sae, model, corpus, 300).ce_clean)
