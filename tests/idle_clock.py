"""An event loop whose clock runs only while it is idle, so that a slow machine never causes a timeout."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _IdleTimeSelector(selectors.DefaultSelector):
    idle_seconds = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(timeout)
        if not ready:
            self.idle_seconds += timeout or 0
        return ready


class _IdleClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._idle_selector = _IdleTimeSelector()
        super().__init__(self._idle_selector)

    def time(self) -> float:
        return self._idle_selector.idle_seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    """
    Run like :func:`asyncio.run`, with a clock that advances only while the loop is idle.

    Timers expire in real time, but not while a received event is still unhandled. A test whose server runs in the same
    loop can rely on any timeout, however short: a response that has been sent is never late.
    """
    with asyncio.Runner(loop_factory=_IdleClockLoop) as runner:
        return runner.run(main)
