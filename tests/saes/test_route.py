"""Where SAEs read and write: what may be asked for, what is trained on, what is saved."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from saes import cli
from saes.architectures import ARCHITECTURES
from saes.config import TrainConfig
from saes.route import Route
from saes.storage import load_sae
from saes.sweep import read_sweep
from saes.training import train, train_together
from tests.saes.test_sweep import files, sweep  # noqa: F401 - a fixture
from workbench.activations import harvest, special_ids
from workbench.cli.main import run_command
from workbench.corpus import open_corpus
from workbench.errors import SettingError, UnknownSite

MID, MLP, POST = "hook_resid_mid", "hook_mlp_out", "hook_resid_post"
STREAM = tuple(f"blocks.{layer}.{POST}" for layer in range(3))


@pytest.fixture
def plan(hooked):
    """`plan(architecture, site, site_out)`: the route in a GPT-2 of three layers."""

    def make(architecture, site, site_out=None, model="gpt2"):
        config = TrainConfig(site=site, site_out=site_out, out=Path("out"), architecture=architecture)
        return ARCHITECTURES[architecture].plan(config, hooked(model).sites)

    return make


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name.endswith("transcoder")])
@pytest.mark.parametrize("read", ["blocks.1.ln2.hook_normalized", f"blocks.1.{MID}"])
def test_a_transcoder_of_an_mlp_writes_its_output(plan, architecture, read):
    assert plan(architecture, read) == Route((read,), (f"blocks.1.{MLP}",))


def test_a_transcoder_may_write_any_later_site(plan):
    assert plan("transcoder", STREAM[0], STREAM[2]).sites == (STREAM[0], STREAM[2])
    parallel = "blocks.1.ln2.hook_normalized"
    assert plan("transcoder", parallel, model="neox").writes == (f"blocks.1.{MLP}",)


def test_a_crosscoder_reads_a_pattern_or_a_list_in_the_order_of_the_model(plan):
    for asked in (f"blocks.*.{POST}", f"{STREAM[2]}, {STREAM[0]},{STREAM[1]}", f"{STREAM[1]},blocks.*.{POST}"):
        assert plan("crosscoder", asked) == Route(STREAM, STREAM)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("transcoder", STREAM[0]),
            r"transcoder needs site_out, .*: only blocks\.\*\.hook_resid_mid and .* have a def",
        ),
        (("transcoder", STREAM[1], STREAM[0]), "is not computed after"),
        (("transcoder", STREAM[1], STREAM[1]), "is not computed after"),
        (("transcoder", f"blocks.*.{MID}"), "takes one site, and .* names 3"),
        (("transcoder", STREAM[0], f"blocks.*.{MLP}"), "takes one site, and .* names 3"),
        (("topk", f"blocks.*.{POST}"), "names 3: .*; sae sweep trains one at each, a crosscoder reads them together"),
        (("topk", STREAM[0], STREAM[1]), "site_out is for transcoders; topk writes where it reads"),
        (("crosscoder", f"blocks.*.{POST}", STREAM[1]), "site_out is for transcoders; crosscoder writes"),
        (("crosscoder", STREAM[0]), r"reads several sites, and .* names one; give a pattern such as"),
        (("crosscoder", f"{STREAM[0]},{STREAM[0]}"), "reads several sites"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(plan, arguments, complaint):
    with pytest.raises(SettingError, match=complaint) as caught:
        plan(*arguments)
    assert "\n" not in str(caught.value)


def test_a_site_that_is_not_there(plan):
    with pytest.raises(UnknownSite, match=r"nearest: blocks\.0\.hook_mlp_out"):
        plan("transcoder", STREAM[0], "blocks.0.hook_mlp_uot")


@pytest.mark.parametrize(
    ("settings", "metadata"),
    [
        (
            {"architecture": "skip_transcoder", "site": f"blocks.1.{MID}"},
            {"hook_name": f"blocks.1.{MID}", "hook_name_out": f"blocks.1.{MLP}"},
        ),
        ({"architecture": "crosscoder", "site": f"blocks.*.{POST}"}, {"hook_names": list(STREAM)}),
    ],
)
def test_training_leaves_a_directory_that_says_where_it_belongs(small, hooked, settings, metadata):
    """Named as SAELens names it; the weights take raw activations, and their error is that of the report."""
    config = small(**settings, tokens=128 * 120, lr=4e-3, l1_coefficient=0.3)
    report = train(config).report
    sae, model = load_sae(config.out), hooked("gpt2")
    assert {name: sae.cfg.metadata.get(name) for name in ("hook_name", "hook_name_out", "hook_names")} == {
        "hook_name": None,
        "hook_name_out": None,
        "hook_names": None,
    } | metadata
    kept = yaml.safe_load((config.out / "config.yaml").read_text())
    assert kept["site_out"] == metadata.get("hook_name_out")

    corpus = open_corpus(config.corpus, model.tokenizer, context=32)
    batches = list(harvest(model, corpus, sae.route.sites))
    rows = {
        site: torch.cat([one.rows(site, special_ids(model.tokenizer)) for one in batches])
        for site in batches[0].activations
    }
    x, target = (torch.cat([rows[site] for site in group], dim=1) for group in sae.route)
    widths = [rows[site].shape[1] for site in sae.route.writes]
    pairs = zip(sae(x).split(widths, 1), target.split(widths, 1), strict=True)
    fvus = [(((y - y_hat) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()).item() for y_hat, y in pairs]
    assert sum(fvus) / len(fvus) == pytest.approx(report.fvu, rel=0.2)
    assert report.fvu < 0.5
    assert [site.site for site in report.sites] == (list(STREAM) if len(fvus) > 1 else [])


def test_a_transcoder_of_the_bundled_models_mlp(tmp_path):
    """After 100,000 tokens, 16 of 512 latents stand for the third layer's MLP."""
    config = TrainConfig(
        site="blocks.2.ln2.hook_normalized",
        out=tmp_path / "mlp",
        architecture="topk_transcoder",
        d_sae=512,
        tokens=100_000,
        eval_tokens=4_000,
        device="cpu",
    )
    report = train(config).report
    assert report.fvu < 0.15
    assert report.l0 <= 16
    assert report.loss_recovered > 0.8


def test_the_commands(small, capsys):
    """From `sae train` to `sae eval`, whose figures are the report's, and to the comparison."""
    config = small()
    options = [
        "--architecture",
        "topk_transcoder",
        "--site",
        f"blocks.1.{MID}",
        "--out",
        str(config.out),
        "--d-sae",
        "64",
    ]
    options += ["--model", config.model, "--corpus", config.corpus, "--context", "32", "--tokens", "5120", "--k", "4"]
    options += ["--batch-size", "128", "--buffer", "2048", "--eval-tokens", "500", "--device", "cpu"]
    assert run_command("sae train", cli.train, options) == 0
    capsys.readouterr()
    assert run_command("sae eval", cli.evaluate, [str(config.out), "--tokens", "500", "--json"]) == 0
    measured, kept = json.loads(capsys.readouterr().out), json.loads((config.out / "report.json").read_text())
    assert measured["kl"] == pytest.approx(kept["kl"], rel=1e-5)
    assert run_command("sae train", cli.train, [*options, "--architecture", "standard", "--site-out", STREAM[1]]) == 2
    assert "site_out is for transcoders" in capsys.readouterr().err


def test_a_sweep_over_sites_runs_the_model_once(sweep, hooked, tmp_path, monkeypatch):  # noqa: F811
    """A `*` is a run at each layer, and one crosscoder; each comes to what it would alone."""
    from saes import training

    groups = [
        {"architecture": "topk", "k": 4},
        {"architecture": "crosscoder"},
        {"architecture": "transcoder", "site": f"blocks.*.{MID}"},
        {"architecture": "topk_transcoder", "site": f"blocks.*.{POST}", "site_out": "blocks.*.hook_resid_post"},
    ]
    file = sweep(site=f"blocks.*.{POST}", d_sae=32, runs=groups[:3])
    asked = read_sweep(file)
    configs = asked.configs(hooked("gpt2").sites)
    assert [config.out.name for config in configs] == [
        *(f"{site}-topk-k4" for site in STREAM),
        f"blocks.all.{POST}-crosscoder",
        *(f"blocks.{layer}.{MID}-transcoder" for layer in range(3)),
    ]
    harvests, honest = [], training.shuffled_activations
    monkeypatch.setattr(
        training, "shuffled_activations", lambda *args, **kwargs: harvests.append(args[2]) or honest(*args, **kwargs)
    )
    train_together(configs, asked.home, hooked("gpt2"))
    assert len(harvests) == 1
    for config in configs[2:5]:
        settings = yaml.safe_load((config.out / "config.yaml").read_text())
        alone = TrainConfig(**settings | {"out": tmp_path / "alone", "overwrite": True})
        train(alone, hooked("gpt2"), *_corpora(alone, hooked("gpt2")))
        assert files(alone.out) == files(config.out)

    with pytest.raises(SettingError, match="is not computed after"):
        train_together(read_sweep(sweep(runs=groups[3:])).configs(hooked("gpt2").sites), tmp_path / "other")


def _corpora(config, model):
    return open_corpus(config.corpus, model.tokenizer, context=config.context, seed=config.order), None
