"""When watchers poll."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable

# So many seconds after a poll, another one follows for an event that was held back.
LAST_EVENT_SECONDS = 10.0


class SharedPoll:
    """
    One poll of all watchers with the same interval.

    :param due_at: when it is due, on the clock of the event loop.
    :param is_for_last_event: whether nothing is requested, and only an event that was held back is fired.
    """

    def __init__(self, due_at: float, *, is_for_last_event: bool = False) -> None:
        self.due_at = due_at
        self.is_for_last_event = is_for_last_event
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

    They are due at multiples of the interval, so that watchers that start at different times poll together. If the
    interval is long, a poll for an event that was held back follows after each of them.

    :param interval: seconds between two polls.
    """
    loop = asyncio.get_running_loop()
    number = math.floor(loop.time() / interval)
    while True:
        yield SharedPoll(number * interval)
        if (number + 1) * interval - loop.time() > 2 * LAST_EVENT_SECONDS:
            await asyncio.sleep(LAST_EVENT_SECONDS)
            yield SharedPoll(number * interval, is_for_last_event=True)
        number = max(number + 1, math.floor(loop.time() / interval))
        await asyncio.sleep(number * interval - loop.time())
