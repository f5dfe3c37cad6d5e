"""`workbench sae train` in processes that are killed, as a script: killing.py SCRATCH N_KILLS SEED OPTION... → JSON.

Everything is imported once; each training process is forked from this one, runs the command as typed, and is ended by
SIGKILL: half of them after a random time, half as soon as a checkpoint is being written. `--resume` goes on each time.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from saes import cli, console  # noqa: F401 - imported before any fork
from workbench.cli.main import run_command


def begin(out: Path, options: list[str]) -> int:
    """The id of a process that trains."""
    pid = os.fork()
    if pid:
        return pid
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        status = run_command("sae train", cli.train, [*options, "--out", str(out), "--resume"])
        os._exit(status)
    finally:
        os._exit(99)


def half_written(out: Path) -> set[Path]:
    try:
        return {path.parent for path in (out / "checkpoints").glob(".step_*part/*")}
    except FileNotFoundError:  # it was completed meanwhile
        return set()


def ended(pid: int) -> int | None:
    """The exit status of a process that has ended."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def kill(pid: int, out: Path, deadline: float, in_write: bool) -> int | None:
    """Kill the process at the deadline, or from then on at its first write; its exit status if it ended before."""
    litter = half_written(out)
    while (status := ended(pid)) is None:
        if time.monotonic() > deadline and (not in_write or half_written(out) - litter):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.0005)
    return status


def main(scratch: Path, n_kills: int, seed: int, options: list[str]) -> dict:
    rng, kills, runs = random.Random(seed), [], ["whole"]
    started = time.monotonic()
    if status := os.waitstatus_to_exitcode(os.waitpid(begin(scratch / "whole", options), 0)[1]):
        sys.exit(f"the run that is not killed ended with status {status}")
    duration = time.monotonic() - started
    while len(kills) < n_kills:
        runs.append(f"cut{len(runs)}")
        out, status = scratch / runs[-1], None
        while status is None and len(kills) < n_kills:
            in_write, litter = len(kills) % 2 == 1, half_written(out)
            status = kill(begin(out, options), out, time.monotonic() + rng.uniform(0, 0.6) * duration, in_write)
            if status is None:
                last = max((path.name for path in (out / "checkpoints").glob("step_*")), default="nothing")
                kills.append({"run": runs[-1], "kept": last, "in_write": bool(half_written(out) - litter)})
        if status is None:
            status = os.waitstatus_to_exitcode(os.waitpid(begin(out, options), 0)[1])
        if status:
            sys.exit(f"{out} ended with status {status} after {kills[-1:]}")
    return {"kills": kills, "runs": runs}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])))
