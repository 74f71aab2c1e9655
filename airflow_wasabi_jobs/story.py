"""The log of a wait: a short story, not a line for each poll."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.errors import AirError
    from airflow_wasabi_jobs.api.models import JobStatus

SIGN_OF_LIFE = 600.0


class Story:
    """
    Tells each change of a job's status once, the begin and the end of a trouble, and a sign of life now and then.

    :param log: the logger of the task or the trigger that waits.
    :param job_id: the job that is waited for.
    :param clock: what tells the time, in seconds.
    """

    def __init__(self, log: Any, job_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._job_id = job_id
        self._clock = clock
        self._began = self._told_at = clock()
        self._failed_looks = 0
        self.status: JobStatus | None = None
        self.trouble: Exception | None = None

    def answered(self, status: JobStatus, error_count: int | None = None) -> None:
        """Tell what a look brought, if it is news. A list does not tell how many errors a job has."""
        self.trouble = None
        if self._failed_looks:
            self._tell("Job %s: the API answers again. Looks without an answer: %d.", self._failed_looks)
            self._failed_looks = 0
        if status != self.status:
            self.status = status
            self._tell("Job %s: %s%s.", status.value, "" if error_count is None else f" (errors: {error_count})")
        elif self._is_quiet():
            self._tell("Job %s: still %s, %.0f minutes into this wait.", status.value, self._minutes())

    def troubled(self, error: AirError) -> None:
        """Tell that a look failed in a way that may pass, if it is news."""
        self._failed_looks += 1
        if self._failed_looks == 1:
            self._told_at = self._clock()
            self._log.warning("Job %s: no answer at the moment, and the wait goes on. %s", self._job_id, error)
        elif self._is_quiet():
            self._tell("Job %s: still no answer, %.0f minutes into this wait.", self._minutes())

    def _tell(self, line: str, *details: object) -> None:
        self._told_at = self._clock()
        self._log.info(line, self._job_id, *details)

    def _is_quiet(self) -> bool:
        return self._clock() - self._told_at >= SIGN_OF_LIFE

    def _minutes(self) -> float:
        return (self._clock() - self._began) / 60
