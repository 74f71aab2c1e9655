"""When watchers poll."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable

# Airflow puts only the events into a run that are older than its first event of the asset that has not started one.
# So the last of several events is fired when the first one has started a run: it starts another run, with all others.
LAST_EVENT_SECONDS = 10.0


class SharedPoll:
    """
    One poll of all watchers with the same interval.

    :param due_at: when it is due, on the clock of the event loop.
    :param is_for_last_events: whether nothing is requested, and only events that were held back are fired.
    """

    def __init__(self, due_at: float, *, is_for_last_events: bool = False) -> None:
        self.due_at = due_at
        self.is_for_last_events = is_for_last_events
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
    interval is long, a poll for the last events follows after each of them.

    :param interval: seconds between two polls.
    """
    loop = asyncio.get_running_loop()
    number = math.floor(loop.time() / interval)
    while True:
        yield SharedPoll(number * interval)
        if (number + 1) * interval - loop.time() > 2 * LAST_EVENT_SECONDS:
            await asyncio.sleep(LAST_EVENT_SECONDS)
            yield SharedPoll(number * interval, is_for_last_events=True)
        number = max(number + 1, math.floor(loop.time() / interval))
        await asyncio.sleep(number * interval - loop.time())
