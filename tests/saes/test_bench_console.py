"""`workbench sae bench`, as typed."""

import json
import re

import pytest

from saes.synthetic.benchmark import run
from saes.synthetic.cli import bench
from workbench.cli.main import run_command


def typed(*arguments):
    return run_command("sae bench", bench, [*map(str, arguments)])


def test_a_runs_settings_are_tried_on_a_world(tmp_path, capsys):
    """Those of the SAE and its steps are taken from the file, its widths from the world, and options come first."""
    settings = {"lr": 0.005, "batch_size": 128, "architecture": "gated", "l1_coefficient": 0.5}
    lines = [f"{name}: {value}" for name, value in settings.items()]
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "site: blocks.0.hook_mlp_out", "d_sae: 77", "k: 9"]))
    assert typed("tiny", "--settings", tmp_path / "config.yaml", "--tokens", 20_000, "--seed", 1, "--json") == 0
    printed = json.loads(capsys.readouterr().out)["tiny"]
    assert printed == pytest.approx(run("tiny", tokens=20_000, seed=1, **settings).to_dict())
    assert typed("tiny", "--settings", tmp_path / "config.yaml", "--architecture", "topk", "--tokens", 2000) == 0
    assert "tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["huge"], "there are tiny, superposed"),
        (["tiny", "--k", "99"], "k must be at most d_sae [(]32"),
        (["tiny", "--settings", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_get_one_line(arguments, complaint, capsys):
    assert typed(*arguments) == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(complaint, error)
