"""What the AiR Jobs API speaks of."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class JobStatus(StrEnum):
    """
    Where a job stands: ``submitted`` → ``preflight`` → ``in_progress``, then one of the three final ones.

    The values are those of the documentation of *Get job status*, written as the API writes them.
    """

    SUBMITTED = "submitted"
    PREFLIGHT = "preflight"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job is over: a final status never changes again."""
        return self in _FINAL


_FINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class JobReport(msgspec.Struct, frozen=True):
    """
    The answer to a status call.

    :param job_id: the job's id.
    :param status: where the job stands.
    :param error_count: how many errors the analysis met so far. A ``completed`` job may have some.
    """

    job_id: str
    status: JobStatus
    error_count: int = 0

    def is_completed_within(self, max_error_count: int | None) -> bool:
        """Whether the job completed, with at most so many errors, or any number of them."""
        return self.status is JobStatus.COMPLETED and (max_error_count is None or self.error_count <= max_error_count)

    def as_xcom(self) -> dict[str, Any]:
        """Return the report as a plain dict, for an XCom or an event."""
        return {"job_id": self.job_id, "status": self.status.value, "error_count": self.error_count}


class Job(msgspec.Struct, frozen=True):
    """
    A job as a list shows it.

    :param job_id: the job's id.
    :param status: where the job stands, or None if the list says what nobody knows. It may be out of
        date: a list is a hint, and only the job's own report counts.
    """

    job_id: str
    status: JobStatus | None
