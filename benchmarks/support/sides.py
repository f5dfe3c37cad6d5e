"""A side of a comparison in a process of its own, which loads once and then works when told to.

Uses nothing but the standard library and Linux' /proc, so that it runs in a peer's environment too.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]


class Side:
    """A process that runs `serve`; `ask` it for work, and close it in the end."""

    def __init__(self, *command: str) -> None:
        path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
        surroundings = {**os.environ, "PYTHONPATH": path, "TQDM_DISABLE": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=surroundings)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def ask(self, work: str) -> dict[str, Any]:
        """What the work came to. Ends the program if the process has failed; it has said why on standard error."""
        try:
            print(work, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            sys.exit(f"{work}: {' '.join(map(str, self.process.args))} failed with {self.process.wait()}")
        return json.loads(answer)


def serve(work: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """Read names of works from standard input, and answer each with a line of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(work[line.strip()]()), file=answers, flush=True)


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result; processor seconds, and the most bytes that were resident beyond those before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that is still held would hide what the work takes
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    return result, {"seconds": seconds, "bytes": 1024 * (_kilobytes("VmHWM") - before)}


def _kilobytes(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what))
