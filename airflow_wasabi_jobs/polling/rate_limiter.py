"""The rate limiter of an account: a 429, or a Retry-After, pauses all its requests."""

from __future__ import annotations

import asyncio

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api.exceptions import RateLimitError, WasabiApiError

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 15 * 60.0


class RateLimiter:
    """Pauses all requests of an account."""

    def __init__(self) -> None:
        self._not_paused = asyncio.Event()
        self._not_paused.set()
        self._paused_until = 0.0
        self._pauses_in_a_row = 0

    async def wait(self) -> None:
        """Wait until requests may be sent."""
        await self._not_paused.wait()

    def record_error(self, error: WasabiApiError) -> None:
        """Pause if a response asks for it."""
        if error.retry_after is None and not isinstance(error, RateLimitError):
            return
        if not error.is_transient:
            return
        loop = asyncio.get_running_loop()
        if self._not_paused.is_set():
            self._pauses_in_a_row += 1
            metrics.count("rate_limit_pauses")
        backoff = MIN_PAUSE_SECONDS * 2 ** min(self._pauses_in_a_row - 1, 10)
        pause = min(backoff if error.retry_after is None else error.retry_after, MAX_PAUSE_SECONDS)
        if loop.time() + pause > self._paused_until:
            self._paused_until = loop.time() + pause
            self._not_paused.clear()
            loop.call_at(self._paused_until, self._resume, self._paused_until)

    def record_success(self) -> None:
        """Reset the backoff, unless the response belongs to a request that was sent before a pause."""
        if self._not_paused.is_set():
            self._pauses_in_a_row = 0

    def _resume(self, planned: float) -> None:
        if planned == self._paused_until:
            self._not_paused.set()
