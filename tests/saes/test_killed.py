"""Real processes, killed with SIGKILL at random moments and while they write a checkpoint, lose nothing."""

import json
import os
import subprocess
import sys

import pytest

from tests.saes.test_console import options
from tests.saes.test_resume import outcome

KILLS = 20


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk"])
def test_a_killed_run_ends_in_the_same_bits(small, tmp_path, architecture):
    config = small(
        tokens=90 * 128, checkpoint_every=3, log_every=1, eval_tokens=100, architecture=architecture, d_sae=256
    )
    given = [option for option in options(config) if option not in ("--out", str(config.out))]
    scratch = tmp_path / "runs"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.saes.killing", str(scratch), str(KILLS), "0", *given],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    assert len(found["kills"]) == KILLS
    assert sum(kill["in_write"] for kill in found["kills"]) >= KILLS / 4
    assert len({kill["kept"] for kill in found["kills"]}) > 3
    whole = outcome(scratch / "whole")
    for run in found["runs"]:
        assert outcome(scratch / run) == whole, run
        assert not list((scratch / run).rglob(".*part"))
