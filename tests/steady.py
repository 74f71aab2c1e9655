"""An event loop in whose time no work takes any, so that a busy machine can't be late for anything."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(timeout)
        if not ready:
            self.passed += timeout or 0
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.passed


def run(main: Coroutine[Any, Any, T]) -> T:
    """
    Run like :func:`asyncio.run`, by a clock that only goes on while there is nothing at all to do.

    A timer runs down in real time, but never while something has arrived and is not dealt with. So a test whose
    server is in the same loop may rely on any time, however short: an answer that has been sent is never late.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
