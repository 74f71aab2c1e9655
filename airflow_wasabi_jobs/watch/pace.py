"""When an account may be asked: a 429, or whoever says when to come back, stops all that share it."""

from __future__ import annotations

import asyncio

from airflow_wasabi_jobs.api import errors

SHORTEST_PAUSE, LONGEST_PAUSE = 5.0, 15 * 60.0


class Pace:
    """The pace of all that is asked of one account."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._opens_at = 0.0
        self._in_a_row = 0

    async def turn(self) -> None:
        """Wait until the account may be asked."""
        await self._open.wait()

    def heed(self, error: errors.AirError) -> None:
        """Keep the pause that an answer asks for."""
        if error.retry_after is None and not isinstance(error, errors.TooManyRequests):
            return
        if not error.is_passing:
            return
        loop = asyncio.get_running_loop()
        if self._open.is_set():
            self._in_a_row += 1
        asked = error.retry_after
        pause = min(SHORTEST_PAUSE * 2 ** min(self._in_a_row - 1, 10) if asked is None else asked, LONGEST_PAUSE)
        if loop.time() + pause > self._opens_at:
            self._opens_at = loop.time() + pause
            self._open.clear()
            loop.call_at(self._opens_at, self._reopen, self._opens_at)

    def ease(self) -> None:
        """Take note that the account answers."""
        self._in_a_row = 0

    def _reopen(self, planned: float) -> None:
        if planned == self._opens_at:
            self._open.set()
