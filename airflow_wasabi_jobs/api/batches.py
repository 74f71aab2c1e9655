"""
Polling a batch: which requests a poll sends, and what their responses mean. Nothing is sent from here.

A poll is a generator. It yields requests and receives their results from whoever sends them, in a worker or in an event
loop.

Lists are not snapshots: between two pages, jobs are created and change their status. So a batch counts as finished only
if two complete lists in a row are equal and every job in them has finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.models import JobStatus, JobSummary, refuse_serialization
from airflow_wasabi_jobs.api.pages import Pages

T = TypeVar("T")

Requests = Generator[endpoints.Request[Any], Any, T]

MAX_LISTED_FAILURES = 100

_UNFINISHED = tuple(status for status in JobStatus if not status.is_terminal)
_FAILURES = (JobStatus.FAILED, JobStatus.CANCELLED)


class FailedJob(msgspec.Struct, frozen=True):
    """
    A job of a batch that failed or was cancelled.

    :param job_id: the job's id.
    :param source: the URL of the media file, if the list has it. Default: None.
    """

    job_id: str
    source: str | None = None


class BatchReport(msgspec.Struct, frozen=True):
    """
    The status of a batch.

    :param batch: the batch.
    :param is_finished: whether the wait for the batch is finished.
    :param counts: the number of jobs by status. Until the batch has finished, not all jobs are counted.
    :param failed_jobs: the jobs that failed or were cancelled, at most 100 of them.
    :param more_failures: how many more jobs failed or were cancelled. Default: 0.
    """

    batch: str
    is_finished: bool
    counts: dict[str, int]
    failed_jobs: list[FailedJob]
    more_failures: int = 0

    serialize = refuse_serialization

    @property
    def failures(self) -> list[str]:
        """The ids of the jobs that failed or were cancelled, at most 100 of them."""
        return [job.job_id for job in self.failed_jobs]

    @property
    def failure_count(self) -> int:
        """The number of jobs that failed or were cancelled."""
        return len(self.failed_jobs) + self.more_failures

    @property
    def status(self) -> str:
        """The status of the batch in a few words, for the log."""
        if self.is_finished:
            return "finished"
        if not self.counts:
            return "no jobs found yet"
        if all(JobStatus(status).is_terminal for status in self.counts):
            return "waiting for more jobs"
        return "running"

    @property
    def description(self) -> str:
        """The status with the counts, for the log."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        if not counts:
            return "no jobs found yet; waiting. Check the name of the batch if this persists"
        return f"{self.status} ({counts})"

    def to_xcom(self) -> dict[str, Any]:
        """Return the report of a finished batch as a plain dict, for an XCom."""
        return {
            "batch": self.batch,
            "counts": self.counts,
            "failures": self.failures,
            "more_failures": self.more_failures,
        }

    def to_event(self) -> dict[str, Any]:
        """Return the report as a plain dict, for an event."""
        event: dict[str, Any] = msgspec.to_builtins(self)
        return event


def poll_batch(batch: str, *, expected_jobs: int | None, max_failures: int, fail_fast: bool) -> Requests[BatchReport]:
    """
    Poll a batch once.

    While it has an unfinished job, this takes a page or two of each list by status, however many jobs there are. The
    complete batch is listed only if no unfinished job is found.

    :param batch: the batch. The filter of the API may let other jobs through, which do not count.
    :param expected_jobs: the number of jobs that the batch has at least, or None for one.
    :param max_failures: how many jobs may fail or be cancelled.
    :param fail_fast: whether the batch counts as finished as soon as more jobs than that failed or were cancelled.
    """
    found: dict[str, JobSummary] = {}
    for status in _UNFINISHED:
        found |= yield from _list(batch, status, enough=1)
    is_running = bool(found)
    if fail_fast:
        failed: dict[str, JobSummary] = {}
        for status in _FAILURES:
            failed |= yield from _list(batch, status, enough=max_failures + 1)
        found |= failed
        if len(failed) > max_failures:
            return _report(batch, failed, is_finished=True)
    if is_running:
        return _report(batch, found, is_finished=False)
    complete = yield from _list(batch)
    is_finished = len(complete) >= (expected_jobs or 1) and _all_finished(complete)
    if is_finished:
        is_finished = _statuses(complete) == _statuses((yield from _list(batch)))
    return _report(batch, complete, is_finished=is_finished)


def _list(batch: str, status: JobStatus | None = None, enough: float = float("inf")) -> Requests[dict[str, JobSummary]]:
    """List pages until they have enough jobs of the batch, or all of them."""
    found: dict[str, JobSummary] = {}
    pages = Pages[JobSummary]()
    while not pages.is_complete and len(found) < enough:
        page: list[JobSummary] = yield endpoints.list_batch(batch, status=status, page_number=pages.next_number)
        for job in page:
            if job.batch == batch and job.status is not None:
                found[job.job_id] = job
        pages.add(page)
    return found


def _statuses(jobs: dict[str, JobSummary]) -> dict[str, JobStatus | None]:
    return {job_id: job.status for job_id, job in jobs.items()}


def _all_finished(jobs: dict[str, JobSummary]) -> bool:
    return all(job.status is not None and job.status.is_terminal for job in jobs.values())


def _report(batch: str, jobs: dict[str, JobSummary], *, is_finished: bool) -> BatchReport:
    counts = Counter(job.status for job in jobs.values())
    failed_jobs = [FailedJob(job.job_id, job.source) for job in jobs.values() if job.status in _FAILURES]
    return BatchReport(
        batch=batch,
        is_finished=is_finished,
        counts={status.value: counts[status] for status in JobStatus if counts[status]},
        failed_jobs=failed_jobs[:MAX_LISTED_FAILURES],
        more_failures=max(0, len(failed_jobs) - MAX_LISTED_FAILURES),
    )
