"""When watchers poll."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable


class SharedPoll:
    """
    One poll of all watchers with the same interval.

    :param due_at: when it is due, on the clock of the event loop.
    """

    def __init__(self, due_at: float) -> None:
        self.due_at = due_at
        self._on_confirmed: list[Callable[[], Awaitable[None]]] = []

    def on_confirmed(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call back when Airflow has stored the events of this poll."""
        self._on_confirmed.append(callback)

    async def confirm(self) -> None:
        """Call the callbacks."""
        for callback in self._on_confirmed:
            await callback()


async def shared_polls(interval: float) -> AsyncIterator[SharedPoll]:
    """
    Yield a poll at once, and then at each interval.

    They are due at multiples of the interval, so that watchers that start at different times poll together.

    :param interval: seconds between two polls.
    """
    loop = asyncio.get_running_loop()
    while True:
        number = math.floor(loop.time() / interval)
        yield SharedPoll(number * interval)
        await asyncio.sleep((number + 1) * interval - loop.time())
