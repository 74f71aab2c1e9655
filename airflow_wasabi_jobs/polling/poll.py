"""The poll of one job, for which a wait waits."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from airflow_wasabi_jobs.api.exceptions import WasabiApiError

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import JobReport, JobStatus


class Poll(msgspec.Struct, eq=False, kw_only=True):
    """
    The polls of one job, one after the other.

    :param job_id: the job's id.
    :param connection_name: how messages refer to the connection.
    :param list_polls: how many polls by list there were since the job was last requested by its id.
    :param last_status: the last known status.
    :param has_timed_out: whether the last request for the job timed out.
    :param due_at: when to poll next, on the clock of the event loop.
    :param interval: seconds between two polls.
    :param report_unchanged_at: when to report a status that has not changed, on the same clock.
    :param result: receives the result of the poll.
    """

    job_id: str
    connection_name: str
    list_polls: int
    result: asyncio.Future[JobReport | JobStatus]
    last_status: JobStatus | None = None
    has_timed_out: bool = False
    due_at: float = 0.0
    interval: float = 0.0
    report_unchanged_at: float = 0.0


def set_result(polls: Iterable[Poll], result: JobReport | JobStatus) -> None:
    """Report a result to the waits of polls."""
    for poll in polls:
        if not poll.result.done():
            poll.result.set_result(result)


def set_exception(polls: Iterable[Poll], error: BaseException) -> None:
    """Report an error to the waits of polls."""
    for poll in polls:
        if not poll.result.done():
            poll.result.set_exception(to_raise(error))


def to_raise(error: BaseException) -> BaseException:
    """Return a new exception for each wait: an exception collects the tracebacks of all who raise it."""
    if isinstance(error, WasabiApiError):
        return copy.copy(error)
    unexpected = RuntimeError(f"Polling failed: {error!r}")
    unexpected.__cause__ = error
    return unexpected
