"""What a watcher logs when polls fail, and when it polls again."""

from __future__ import annotations

import asyncio
import math

from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.log import LOG

MAX_BACKOFF_SECONDS = 300.0
MIN_PERMANENT_RETRY_SECONDS, PERMANENT_RETRY_POLLS = 30.0, 5


class FailureLog:
    """
    Logs the beginning and the end of a series of failed polls, and each permanent error once.

    :param subject: how log lines refer to the watcher.
    :param poke_interval: seconds between two polls.
    """

    def __init__(self, subject: str, poke_interval: float) -> None:
        self._subject = subject
        self._poke_interval = poke_interval
        self._failed_polls = 0
        self._last_message = ""
        self.failed_at: float | None = None
        self._retry_at = -math.inf

    def is_backing_off(self, due_at: float) -> bool:
        """Whether a poll that is due at this time is left out."""
        # Half an interval, because times are rounded.
        return due_at + self._poke_interval / 2 < self._retry_at

    async def record_success(self) -> None:
        """Log the end of a series of failed polls."""
        if self._failed_polls:
            polls = f"{self._failed_polls} failed poll{'' if self._failed_polls == 1 else 's'}"
            await asyncio.to_thread(LOG.info, "%s: API is responding again after %s.", self._subject, polls)
        self._failed_polls, self._last_message, self.failed_at = 0, "", None

    async def record(self, error: Exception, due_at: float) -> None:
        """
        Log an error if it is new, and set the time of the next poll.

        :param error: the error.
        :param due_at: when the poll was due, on the clock of the event loop.
        """
        self._failed_polls += 1
        self.failed_at = asyncio.get_running_loop().time()
        if isinstance(error, WasabiApiError) and error.is_transient:
            delay = self._poke_interval * 2 ** min(self._failed_polls - 1, 10)
            self._retry_at = due_at + min(delay, max(MAX_BACKOFF_SECONDS, self._poke_interval))
            if self._failed_polls == 1:
                await asyncio.to_thread(LOG.warning, "%s: API not responding; still watching. %s", self._subject, error)
            return
        slower = min(PERMANENT_RETRY_POLLS * self._poke_interval, MAX_BACKOFF_SECONDS)
        delay = max(slower, MIN_PERMANENT_RETRY_SECONDS, self._poke_interval)
        self._retry_at = due_at + delay
        if str(error) != self._last_message:
            self._last_message = str(error)
            details = None if isinstance(error, WasabiApiError) else error
            message = "%s: polling failed; retrying every %.0f s. %s"
            await asyncio.to_thread(LOG.error, message, self._subject, delay, error, exc_info=details)
