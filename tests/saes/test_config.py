"""Options of the SAE commands."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from saes.config import EvalConfig, TrainConfig
from saes.trainer import schedule
from workbench.cli.command import read_config
from workbench.errors import SettingError

SITE = "blocks.2.hook_resid_post"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"k": 2000}, r"k must be at most d_sae \(1024\), not 2000"),
        ({"tokens": 100}, r"tokens must be at least batch_size \(1024\), not 100"),
        ({"buffer": 1000}, r"buffer must be at least batch_size \(1024\), not 1000"),
        ({"lr": 0.0}, "lr must be above 0, not 0.0"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"warm_up": 1.5}, "warm_up must be a fraction from 0 to 1, not 1.5"),
        ({"warm_up": 0.5, "decay": 0.6}, "decay must be a fraction"),
        ({"clip": 0.0}, "clip must be above 0, not 0.0"),
        ({"threshold": -1.0}, "threshold must be 0 or more, not -1.0"),
        ({"architecture": "batchtopk", "k": 2000}, r"k must be at most d_sae \(1024\), not 2000"),
        ({"architecture": "matryoshka", "nested_widths": (9, 8)}, "nested_widths must be rising widths below d_sae"),
        ({"context": 1}, "context must be at least 2, not 1"),
        ({"model": "gpt2"}, "corpus is needed"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(settings, complaint):
    with pytest.raises(SettingError, match=complaint) as caught:
        TrainConfig(site=SITE, out=Path("out"), **settings)
    assert "\n" not in str(caught.value)


def test_k_does_not_bind_the_standard_architecture():
    assert TrainConfig(site=SITE, out=Path("out"), architecture="standard", k=16, d_sae=8).d_sae == 8


def test_settings_survive_yaml(tmp_path):
    config = TrainConfig(site=SITE, out=tmp_path / "sae", lr=1e-5, seed=3, overwrite=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    settings = read_config(tmp_path / "config.yaml", TrainConfig)
    again = TrainConfig(**settings | {"out": Path(settings["out"])})
    assert again.to_dict() == config.to_dict()
    assert (again.lr, again.corpus, again.overwrite) == (1e-5, "tinytown", False)


def test_the_learning_rate_rises_stays_and_falls():
    config = TrainConfig(site=SITE, out=Path("out"), tokens=1024 * 100, warm_up=0.1, decay=0.2)
    rates = [schedule(step, config) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:80] == [1.0] * 71
    assert rates[-3:] == pytest.approx([0.15, 0.10, 0.05])
    flat = TrainConfig(site=SITE, out=Path("out"), tokens=1024 * 100, warm_up=0.0, decay=0.0)
    assert {schedule(step, flat) for step in range(100)} == {1.0}


def test_eval_options():
    assert EvalConfig(Path("sae")).tokens == 100_000
    with pytest.raises(SettingError, match="tokens must be at least 1"):
        EvalConfig(Path("sae"), tokens=0)


def test_the_options_import_no_torch():
    """`--help` must answer at once."""
    code = "import sys, saes.config, saes.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
