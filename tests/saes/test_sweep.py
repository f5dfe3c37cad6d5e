"""Several SAEs on one pass over the model, each as if trained alone, and their comparison."""

import json
from pathlib import Path

import pytest
import yaml

from saes import cli, training
from saes.comparison import compare_runs
from saes.config import SweepConfig, TrainConfig
from saes.sweep import read_sweep
from saes.trainer import Trainer
from saes.training import train, train_together
from tests.saes.test_console import run_command
from workbench.errors import SettingError
from workbench.interrupt import Interrupt

SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture
def sweep(small, tmp_path):
    """`sweep(runs=[...])`: a sweep file over the settings of a small run."""

    def write(**settings):
        base = small(tokens=16 * 128, eval_tokens=200, checkpoint_every=6).to_dict()
        base = {name: value for name, value in base.items() if name not in ("out", "overwrite", "resume", "k", "seed")}
        path = tmp_path / "sweep.yaml"
        settings = base | {"out": str(tmp_path / "sweep"), "data_seed": 5} | settings
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return SweepConfig(path)

    return write


def read(file: SweepConfig, known=tuple(SITES)) -> tuple[Path, list[TrainConfig]]:
    asked = read_sweep(file)
    return asked.home, asked.configs(known)


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("sae_weights.safetensors", "metrics.jsonl")}


def test_lists_are_combined_and_runs_named_after_what_differs(sweep):
    home, configs = read(
        sweep(
            seed=[0, 1],
            lr="2e-3",
            runs=[{"architecture": "topk", "k": [2, 4]}, {"architecture": "standard", "l1_coefficient": 2}],
        )
    )
    assert [config.out.relative_to(home).name for config in configs] == [
        "topk-k2-seed0",
        "topk-k4-seed0",
        "topk-k2-seed1",
        "topk-k4-seed1",
        "standard-seed0",
        "standard-seed1",
    ]
    assert {config.data_seed for config in configs} == {5}
    assert {config.lr for config in configs} == {2e-3}
    assert isinstance(configs[-1].l1_coefficient, float)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tokens": [100, 200]}, "tokens is the same for all runs of a sweep"),
        ({"runs": [{"tokens": 100}]}, "tokens is the same for all runs; write it above"),
        ({"runs": [{"kk": 100}]}, "unknown setting 'kk'; did you mean 'k'"),
        ({"runs": {"k": 3}}, "runs must be a list of groups"),
        ({"k": [3, 3]}, "asks for the run topk twice"),
        ({"k": [3, 2.5]}, "k must be int, not 2.5"),
        ({"architecture": "tpok"}, "architecture must be one of topk"),
        ({"k": [0, 1]}, "k must be at least 1, not 0"),
        ({"out": None}, "does not say where the runs should go"),
        ({"site": ""}, "does not say where the activations come from"),
    ],
)
def test_what_makes_no_sense_is_refused(sweep, settings, complaint):
    with pytest.raises(SettingError, match=complaint):
        read(sweep(**settings))


def test_each_sae_is_as_if_trained_alone_and_the_model_runs_once(sweep, tmp_path, monkeypatch):
    home, configs = read(sweep(site=SITES, k=[2, 4], seed=[0]))
    harvests, honest = [], training.shuffled_activations
    monkeypatch.setattr(
        training, "shuffled_activations", lambda *args, **kwargs: harvests.append(args[2]) or honest(*args, **kwargs)
    )
    results = train_together(configs, home)
    assert len(harvests) == 1
    assert [result.steps for result in results] == [16] * 4
    for config in (configs[0], configs[3]):
        settings = yaml.safe_load((config.out / "config.yaml").read_text())
        alone = TrainConfig(**settings | {"out": tmp_path / "alone", "overwrite": True})
        train(alone)
        assert files(alone.out) == files(config.out)
    assert len({files(config.out)["sae_weights.safetensors"] for config in configs}) == 4


def test_a_sweep_goes_on_and_leaves_behind_what_fails(sweep, monkeypatch):
    """One of three diverges at step 8; the sweep is stopped at step 10, and ends as it would have without that."""
    honest = Trainer.step

    def step(trainer, rows):
        bad = trainer.config.k == 3 and trainer.steps == 7
        return honest(trainer, rows * float("nan") if bad else rows)

    monkeypatch.setattr(Trainer, "step", step)
    file = sweep(k=[2, 3, 4], log_every=1)
    results = {}
    for name in ("whole", "cut"):
        home, configs = read(SweepConfig(file.file, out=file.file.parent / name))
        interrupt = Interrupt()

        def show(metrics, interrupt=interrupt, name=name):
            if name == "cut" and metrics[0].step == 10:
                interrupt.request()

        results[name] = train_together(configs, home, on_progress=show, interrupt=interrupt)
    assert [result.interrupted for result in results["cut"]] == [True] * 3
    home, configs = read(SweepConfig(file.file, out=home, resume=True))
    assert [bool(result.failed) for result in train_together(configs, home)] == [False, True, False]
    for name in ("k2", "k4"):
        assert files(home / name) == files(home.with_name("whole") / name)
    failed = json.loads((home / "k3" / "report.json").read_text())["failed"]
    assert "no longer finite at step 8" in failed
    assert (home / "k3" / "checkpoints" / "step_0000006" / "cfg.json").is_file()
    assert not (home / "checkpoints").exists()

    table = str(compare_runs([home]))
    assert "no longer finite" in table
    assert [row.name for row in compare_runs([home]).rows] == ["k2", "k4", "k3"]


def test_the_commands_print_a_table_and_draw_a_figure(sweep, capsys):
    file = sweep(k=[2, 4])
    assert run_command("sae sweep", cli.sweep, [str(file.file)]) == 0
    table = capsys.readouterr().out
    home, configs = read(file)
    assert "recovered" in table
    assert "tokens/s" in table
    for config in configs:
        report = json.loads((config.out / "report.json").read_text())
        line = next(line for line in table.splitlines() if line.startswith(config.out.name))
        assert f"{report['l0']:.1f}" in line
        assert f"{report['fvu']:.4f}" in line
    assert "plotly" in (home / "pareto.html").read_text()

    assert run_command("sae sweep", cli.sweep, [str(file.file)]) == 1
    assert "already holds an SAE" in capsys.readouterr().err
    runs = [str(config.out) for config in configs]
    assert run_command("sae compare", cli.compare, [*runs, "--figure", str(home / "again.json"), "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["k2", "k4"]
    drawn = json.loads((home / "again.json").read_text())
    assert sorted(x for trace in drawn["data"][1:] for x in trace["x"]) == sorted(
        json.loads((config.out / "report.json").read_text())["l0"] for config in configs
    )


def test_a_directory_without_runs_cannot_be_compared(tmp_path):
    with pytest.raises(SettingError, match="holds no SAE and no runs"):
        compare_runs([tmp_path])
