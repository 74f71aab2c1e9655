"""An event loop for real HTTP in virtual time: while nothing happens, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# A loopback response that has been sent arrives within this time.
GRACE_SECONDS = 0.002


class _JumpingSelector(selectors.DefaultSelector):
    now = 1000.0
    running_threads = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.running_threads:
            return super().select(0.05)
        ready = super().select(GRACE_SECONDS)
        if not ready:
            self.now += timeout or 0
        return ready


class _JumpingClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping_selector = _JumpingSelector()
        super().__init__(self._jumping_selector)

    def time(self) -> float:
        return self._jumping_selector.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Stop the clock while a thread runs."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping_selector.running_threads += 1
        future.add_done_callback(self._end_thread)
        return future

    def _end_thread(self, _: object) -> None:
        self._jumping_selector.running_threads -= 1


def run(main: Coroutine[Any, Any, T]) -> T:
    """
    Run like :func:`asyncio.run`, in virtual time.

    Timers expire as soon as nothing else happens. Sockets of this process and threads are waited for.
    """
    with asyncio.Runner(loop_factory=_JumpingClockLoop) as runner:
        return runner.run(main)
