"""A first Ctrl-C that asks politely: the loop ends after its step, so that what there is can be saved."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """While open, SIGINT and SIGTERM set `requested`; a second one acts as it would have without.

    Outside the main thread, where Python delivers no signals, it does nothing; `request` works everywhere.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        self._event.set()

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.request()
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._restore()
