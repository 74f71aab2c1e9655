"""The log of a wait: one line for each change, not one for each poll."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.log import LOG

HEARTBEAT_SECONDS = 600.0
# How often progress is logged: at first, and later.
FIRST_PROGRESS_SECONDS, PROGRESS_SECONDS = 30.0, 300.0
# How long the first interval applies.
FIRST_PHASE_SECONDS = 180.0


class StatusLog:
    """
    Logs each change of status, the beginning and the end of a series of failed polls, and a heartbeat line.

    :param subject: what it waits for, such as ``Job '12345'``.
    :param clock: returns the time in seconds.
    """

    def __init__(self, subject: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._subject = subject
        self._clock = clock
        self._started_at = self._logged_at = clock()
        self._failed_polls = 0
        self._description: str | None = None
        self.status: str | None = None
        self.last_error: Exception | None = None

    def record_status(self, status: str, description: str) -> None:
        """
        Log the result of a poll if the status has changed, or a heartbeat line is due.

        :param status: the status.
        :param description: the status with its details, as it is logged.
        """
        self._record_response()
        if status != self.status:
            self._log_description(description)
        elif self._is_heartbeat_due():
            self._info("%s: %s; waiting for %.0f minutes.", description, self._minutes())
        self.status = status

    def record_progress(self, status: str, description: str) -> None:
        """
        Log the result of a poll as :meth:`record_status` does, or if its description has changed and progress is due.

        :param status: the status.
        :param description: the progress, as it is logged.
        """
        if status == self.status and description != self._description and self.is_progress_due(status):
            self._record_response()
            self._log_description(description)
        else:
            self.record_status(status, description)

    def is_progress_due(self, status: str) -> bool:
        """Whether :meth:`record_progress` logs a line if the description has changed."""
        is_first_phase = self._clock() - self._started_at < FIRST_PHASE_SECONDS
        interval = FIRST_PROGRESS_SECONDS if is_first_phase else PROGRESS_SECONDS
        return status != self.status or self._clock() - self._logged_at >= interval

    def record_error(self, error: WasabiApiError) -> None:
        """Log a transient error of a poll if it is the first of a series, or a heartbeat line is due."""
        self.last_error = error
        self._failed_polls += 1
        if self._failed_polls == 1:
            self._logged_at = self._clock()
            LOG.warning("%s: API not responding; still waiting. %s", self._subject, error)
        elif self._is_heartbeat_due():
            self._info("%s: API still not responding; waiting for %.0f minutes.", self._minutes())

    def _record_response(self) -> None:
        self.last_error = None
        if self._failed_polls:
            polls = f"{self._failed_polls} failed poll{'' if self._failed_polls == 1 else 's'}"
            self._info("%s: API is responding again after %s.", polls)
            self._failed_polls = 0

    def _log_description(self, description: str) -> None:
        self._description = description
        self._info("%s: %s.", description)

    def _info(self, line: str, *details: object) -> None:
        self._logged_at = self._clock()
        LOG.info(line, self._subject, *details)

    def _is_heartbeat_due(self) -> bool:
        return self._clock() - self._logged_at >= HEARTBEAT_SECONDS

    def _minutes(self) -> float:
        return (self._clock() - self._started_at) / 60


def log_start(subject: str, place: str, poke_interval: float, timeout_at: float) -> None:
    """
    Log that a wait begins.

    :param subject: what it waits for, such as ``Job '12345'``.
    :param place: where it polls, such as ``the triggerer``.
    :param poke_interval: seconds between two polls.
    :param timeout_at: when the wait times out, in seconds since the epoch.
    """
    LOG.info(
        "%s: waiting in %s; polling every %g s; times out at %s UTC.",
        subject,
        place,
        poke_interval,
        datetime.fromtimestamp(timeout_at, UTC).strftime("%Y-%m-%d %H:%M"),
    )


@contextmanager
def log_failure() -> Iterator[None]:
    """Log the error of a task in one line, because the log pane of Airflow cuts the title of a traceback."""
    try:
        yield
    except (AirflowFailException, AirflowSensorTimeout, WasabiApiError, ValueError) as error:
        LOG.error("%s", error)  # noqa: TRY400 - Airflow logs the traceback
        raise


def describe_job_status(status: str, error_count: int | None = None) -> str:
    """
    Return the status of a job for the log, such as ``status in_progress, 0 errors``.

    :param error_count: the number of errors, or None if it is unknown.
    """
    return f"status {status}" + ("" if error_count is None else f", {describe_error_count(error_count)}")


def describe_error_count(error_count: int) -> str:
    """Return an error count in words, such as ``1 error``."""
    return f"{error_count} error{'' if error_count == 1 else 's'}"
