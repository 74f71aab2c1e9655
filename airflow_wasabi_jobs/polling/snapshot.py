"""What all watchers of an account request in one poll, sent once for all of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from airflow_wasabi_jobs.api.exceptions import WasabiApiError

T = TypeVar("T")


class Snapshot:
    """
    The results of the requests of one poll. Each is requested when it is first needed, and kept until the next poll.

    :param due_at: when the poll was due, on the clock of the event loop.
    """

    def __init__(self, due_at: float) -> None:
        self.due_at = due_at
        self._results: dict[Hashable, _Result] = {}

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        """
        Return a result, or raise its error.

        :param key: what identifies the result.
        :param fetch: fetches it, unless another watcher has done so. If that watcher is cancelled, the next one
            fetches.
        """
        result: T = await self._results.setdefault(key, _Result()).get(fetch)
        return result


class _Result:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._is_fetched = False
        self._value: Any = None

    async def get(self, fetch: Callable[[], Awaitable[Any]]) -> Any:
        async with self._lock:
            if not self._is_fetched:
                try:
                    self._value = await fetch()
                except WasabiApiError as error:
                    self._value = error
                self._is_fetched = True
        if isinstance(self._value, WasabiApiError):
            # A new exception for each watcher: an exception collects the tracebacks of all who raise it.
            raise copy.copy(self._value)
        return self._value
