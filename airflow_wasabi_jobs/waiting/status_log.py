"""The log of a wait: one line for each change, not one for each poll."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.exceptions import WasabiApiError

HEARTBEAT_SECONDS = 600.0


class StatusLog:
    """
    Logs each change of status, the beginning and the end of a series of failed polls, and a heartbeat line.

    :param log: the logger of the task or the trigger that waits.
    :param subject: what it waits for, such as ``Job '12345'``.
    :param clock: returns the time in seconds.
    """

    def __init__(self, log: Any, subject: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._subject = subject
        self._clock = clock
        self._started_at = self._logged_at = clock()
        self._failed_polls = 0
        self.status: str | None = None
        self.last_error: Exception | None = None

    def record_status(self, status: str, description: str) -> None:
        """
        Log the result of a poll if the status has changed, or a heartbeat line is due.

        :param status: the status.
        :param description: the status with its details, as it is logged.
        """
        self.last_error = None
        if self._failed_polls:
            polls = f"{self._failed_polls} failed poll{'' if self._failed_polls == 1 else 's'}"
            self._info("%s: API is responding again after %s.", polls)
            self._failed_polls = 0
        if status != self.status:
            self.status = status
            self._info("%s: %s.", description)
        elif self._is_heartbeat_due():
            self._info("%s: %s; waiting for %.0f minutes.", description, self._minutes())

    def record_error(self, error: WasabiApiError) -> None:
        """Log a transient error of a poll if it is the first of a series, or a heartbeat line is due."""
        self.last_error = error
        self._failed_polls += 1
        if self._failed_polls == 1:
            self._logged_at = self._clock()
            self._log.warning("%s: API not responding; still waiting. %s", self._subject, error)
        elif self._is_heartbeat_due():
            self._info("%s: API still not responding; waiting for %.0f minutes.", self._minutes())

    def _info(self, line: str, *details: object) -> None:
        self._logged_at = self._clock()
        self._log.info(line, self._subject, *details)

    def _is_heartbeat_due(self) -> bool:
        return self._clock() - self._logged_at >= HEARTBEAT_SECONDS

    def _minutes(self) -> float:
        return (self._clock() - self._started_at) / 60


def describe_job_status(status: str, error_count: int | None = None) -> str:
    """
    Return the status of a job for the log, such as ``status in_progress, 0 errors``.

    :param error_count: the number of errors, or None if it is unknown.
    """
    return f"status {status}" + ("" if error_count is None else f", {describe_error_count(error_count)}")


def describe_error_count(error_count: int) -> str:
    """Return an error count in words, such as ``1 error``."""
    return f"{error_count} error{'' if error_count == 1 else 's'}"
