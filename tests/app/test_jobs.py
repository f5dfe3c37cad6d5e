"""The worker: order, progress, cancel, and questions between a job's steps."""

import threading
import time

import pytest

from app.jobs import CANCELLED, DONE, FAILED, Job, Progress, Worker
from workbench.errors import CorpusError


def until(job: Job, limit: float = 10.0) -> Job:
    deadline = time.monotonic() + limit
    while job.active:
        assert time.monotonic() < deadline, f"{job.title} is still {job.state}"
        time.sleep(0.005)
    return job


def test_a_question_runs_on_the_workers_thread_and_returns() -> None:
    worker = Worker()
    assert worker.ask(lambda a, b: (a + b, threading.current_thread().name), 2, b=3) == (5, "model")


def test_a_questions_error_reaches_the_asker() -> None:
    with pytest.raises(CorpusError, match="no text"):
        Worker().ask(_fail)


def _fail() -> None:
    raise CorpusError("no text")


def test_jobs_run_in_order_and_keep_their_results() -> None:
    worker, seen = Worker(), []

    def work(name: str) -> str:
        seen.append(name)
        return name.upper()

    jobs = [worker.submit(name, lambda progress, name=name: work(name)) for name in "abc"]
    assert [until(job).result for job in jobs] == ["A", "B", "C"]
    assert seen == ["a", "b", "c"]
    assert [job.number for job in jobs] == [1, 2, 3]


def test_a_running_job_stops_at_its_next_step() -> None:
    worker, started = Worker(), threading.Event()

    def work(progress: Progress) -> None:
        for step in range(10_000):
            progress(step, 10_000)
            started.set()
            time.sleep(0.001)

    job = worker.submit("long", work)
    assert started.wait(5)
    worker.cancel(job.number)
    assert until(job).state == CANCELLED
    assert 0 < job.done < 9_999


def test_a_waiting_job_is_cancelled_at_once() -> None:
    worker, gate = Worker(), threading.Event()
    first = worker.submit("first", lambda progress: gate.wait(5))
    second = worker.submit("second", lambda progress: "ran")
    worker.cancel(second.number)
    assert second.state == CANCELLED
    gate.set()
    assert until(first).state == DONE
    worker.ask(lambda: None)
    assert second.result is None


def test_questions_are_answered_between_a_jobs_steps() -> None:
    worker, started, enough = Worker(), threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        started.set()
        while not enough.is_set():
            progress(1, 2)

    job = worker.submit("endless", work)
    assert started.wait(5)
    assert worker.ask(lambda: "answer") == "answer"
    assert job.active
    enough.set()
    until(job)


def test_a_failed_job_says_why_in_one_line() -> None:
    job = until(Worker().submit("broken", lambda progress: _fail()))
    assert (job.state, job.error) == (FAILED, "no text")


def test_the_estimate_follows_the_pace() -> None:
    job = Job(1, "half", lambda progress: None, state="running", done=1, total=4, started=100.0)
    assert job.share == 0.25
    assert job.seconds_left(now=110.0) == pytest.approx(30.0)
    assert Job(1, "new", lambda progress: None).seconds_left(1.0) is None
