"""The log of a wait: a short story, not a line for each poll."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.errors import AirError

SIGN_OF_LIFE = 600.0


class Story:
    """
    Tells each change of what is waited for once, the begin and the end of a trouble, and a sign of life now and then.

    :param log: the logger of the task or the trigger that waits.
    :param subject: what is waited for, such as ``Job 12345``.
    :param clock: what tells the time, in seconds.
    """

    def __init__(self, log: Any, subject: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._subject = subject
        self._clock = clock
        self._began = self._told_at = clock()
        self._failed_looks = 0
        self.state: str | None = None
        self.trouble: Exception | None = None

    def answered(self, state: str, details: str = "") -> None:
        """
        Tell what a look brought, if it is news.

        :param state: what is news if it is another than before, such as a job's status.
        :param details: what is told with it, but is no news by itself.
        """
        self.trouble = None
        if self._failed_looks:
            self._tell("%s: the API answers again. Looks without an answer: %d.", self._failed_looks)
            self._failed_looks = 0
        if state != self.state:
            self.state = state
            self._tell("%s: %s%s.", state, details and f" ({details})")
        elif self._is_quiet():
            self._tell(
                "%s: still %s%s, %.0f minutes into this wait.", state, details and f" ({details})", self._minutes()
            )

    def troubled(self, error: AirError) -> None:
        """Tell that a look failed in a way that may pass, if it is news."""
        self._failed_looks += 1
        if self._failed_looks == 1:
            self._told_at = self._clock()
            self._log.warning("%s: no answer at the moment, and the wait goes on. %s", self._subject, error)
        elif self._is_quiet():
            self._tell("%s: still no answer, %.0f minutes into this wait.", self._minutes())

    def _tell(self, line: str, *details: object) -> None:
        self._told_at = self._clock()
        self._log.info(line, self._subject, *details)

    def _is_quiet(self) -> bool:
        return self._clock() - self._told_at >= SIGN_OF_LIFE

    def _minutes(self) -> float:
        return (self._clock() - self._began) / 60
