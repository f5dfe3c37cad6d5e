"""One worker thread that owns the model: it answers questions at once, and runs jobs with progress and cancel.

Torch models are not safe to run from several threads, so all of them run here. A job calls `progress` between its
steps; there the worker notices a cancelled job and answers the questions that have come in, so a page stays quick
while an index is being built.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import WorkbenchError

Progress = Callable[..., None]
"""`progress(done, total, message="")`."""

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


class Cancelled(Exception):
    """Raised inside a job, by its own call of `progress`, once it has been cancelled."""


@dataclass(eq=False)
class Job:
    """Work longer than a second: what it is, how far it is, and what came of it."""

    number: int
    title: str
    work: Callable[[Progress], Any]
    state: str = WAITING
    done: int | float = 0
    total: int | float = 0
    message: str = ""
    result: Any = None
    error: str = ""
    started: float = 0.0
    finished: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        return self.state in (WAITING, RUNNING)

    @property
    def share(self) -> float:
        """How much is done, 0 to 1; 0 while that is unknown."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def seconds_left(self, now: float) -> float | None:
        """An estimate from the pace so far, or None before there is one."""
        if self.state != RUNNING or not self.share:
            return None
        return (now - self.started) * (1 - self.share) / self.share


class Worker:
    """A thread, a queue of questions, a queue of jobs. Nothing else may run the model."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._numbers = itertools.count(1)
        self._questions: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Answer of `question(*args, **kwargs)`, worked out on the worker's thread. Its exceptions are raised here."""
        if threading.current_thread() is self._thread:
            return question(*args, **kwargs)
        future: Future[Any] = Future()
        self._questions.put((future, lambda: question(*args, **kwargs)))
        self._wake.set()
        return future.result()

    def submit(self, title: str, work: Callable[[Progress], Any]) -> Job:
        """Queue `work(progress)`; jobs run one at a time, in the order they came."""
        job = Job(next(self._numbers), title, work)
        self.jobs.append(job)
        self._waiting.put(job)
        self._wake.set()
        return job

    def cancel(self, number: int) -> None:
        """Stop a job: at once if it is waiting, at its next step if it is running. Unknown numbers are ignored."""
        for job in self.jobs:
            if job.number == number and job.active:
                job.stop.set()
                if job.state == WAITING:
                    job.state = CANCELLED

    def active(self) -> list[Job]:
        return [job for job in self.jobs if job.active]

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._answer()
            while not self._waiting.empty():
                self._run(self._waiting.get())
                self._answer()

    def _answer(self) -> None:
        while not self._questions.empty():
            future, question = self._questions.get()
            try:
                future.set_result(question())
            except BaseException as error:
                future.set_exception(error)

    def _run(self, job: Job) -> None:
        if job.stop.is_set():
            job.state = CANCELLED
            return
        job.state, job.started = RUNNING, time.monotonic()

        def progress(done: int | float, total: int | float, message: str = "") -> None:
            job.done, job.total, job.message = done, total, message
            if job.stop.is_set():
                raise Cancelled
            self._answer()

        try:
            job.result = job.work(progress)
            job.state = DONE
        except Cancelled:
            job.state = CANCELLED
        except WorkbenchError as error:
            job.state, job.error = FAILED, str(error)
        except Exception as error:
            job.state, job.error = FAILED, f"{type(error).__name__}: {error}"
        finally:
            job.finished = time.monotonic()
