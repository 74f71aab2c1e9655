"""What the AiR Jobs API speaks of."""

from __future__ import annotations

from enum import StrEnum

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


class Job(msgspec.Struct, frozen=True):
    """
    A job as a list shows it.

    :param job_id: the job's id.
    :param status: the status as the API wrote it. A list is a hint and may be out of date, so it is
        not checked against :class:`JobStatus`: only the job's own report counts.
    """

    job_id: str
    status: str
