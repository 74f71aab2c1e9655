"""An event loop in virtual time: while nothing is ready, its clock jumps to the next timer, so no real time passes."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

MAX_TIMERS = 10_000
# A timer may fire so much too early, because floats are rounded.
TOLERANCE_SECONDS = 1e-6


class _VirtualTimeSelector(selectors.DefaultSelector):
    # Not zero, so that a time that was never set differs from the start.
    now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("No task is ready and there is no timer: the event loop would wait forever.")
            self.now += timeout
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """
    An event loop whose clock advances only while no task is ready. Nothing may wait for a socket or a thread.

    It records the exceptions that no task retrieved, and which timer a task belongs to.
    """

    def __init__(self) -> None:
        self._virtual_selector = _VirtualTimeSelector()
        super().__init__(self._virtual_selector)
        self._timers: list[asyncio.TimerHandle] = []
        self._roots: dict[asyncio.Task[Any], object] = {}
        self.unhandled_errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unhandled_errors.append(context))
        self.set_task_factory(self._create_task)

    def time(self) -> float:
        return self._virtual_selector.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        timer = super().call_at(when, callback, *args, context=context)
        self._timers.append(timer)
        if len(self._timers) > MAX_TIMERS:
            self.pending_timers()
        return timer

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that are still to fire, and release all others."""
        now = self.time() + TOLERANCE_SECONDS
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > now]
        return self._timers

    def root_of_current_task(self) -> object:
        """Return what is the same for all tasks that were created, directly or not, by one callback of a timer."""
        return self._roots.get(asyncio.current_task(self))

    def _create_task(self, _loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        parent = asyncio.current_task(self)
        task = asyncio.Task(coroutine, loop=self, **options)
        self._roots[task] = object() if parent is None else self._roots.get(parent)
        task.add_done_callback(self._roots.pop)
        return task
