"""
Polling a batch: which requests a poll sends, and what their responses mean. Nothing is sent from here.

A poll is a generator. It yields requests and receives their results from whoever sends them, in a worker or in an event
loop.

Lists are not snapshots: between two pages, jobs are created and change their status. So a batch counts as finished only
if two complete lists in a row are equal and every job in them has finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.models import JobStatus, JobSummary, refuse_serialization
from airflow_wasabi_jobs.api.pages import Pages

T = TypeVar("T")

Requests = Generator[endpoints.Request[Any], Any, T]

MAX_LISTED_FAILURES = 100
NO_JOBS_FOUND = "no jobs found yet"

_UNFINISHED = tuple(status for status in JobStatus if not status.is_terminal)
_FAILURES = (JobStatus.FAILED, JobStatus.CANCELLED)


class FailedJob(msgspec.Struct, frozen=True):
    """
    A job of a batch that failed or was cancelled.

    :param job_id: the job's id.
    :param status: ``failed`` or ``cancelled``.
    :param source: the URL of the media file, if the list has it. Default: None.
    :param error_code: the code of the failure, if it was requested. Default: None.
    """

    job_id: str
    status: JobStatus
    source: str | None = None
    error_code: str | None = None

    def to_xcom(self) -> dict[str, Any]:
        """Return the job as a plain dict, for an XCom."""
        return {
            "source": self.source,
            "job_id": self.job_id,
            "status": self.status.value,
            "error_code": self.error_code,
        }


class BatchReport(msgspec.Struct, frozen=True):
    """
    The status of a batch.

    :param batch: the batch.
    :param is_finished: whether the wait for the batch is finished.
    :param counts: the number of jobs by status. If ``is_counted`` is False, some jobs are missing.
    :param failed_jobs: the jobs that failed or were cancelled, at most 100 of them.
    :param more_failures: how many more jobs failed or were cancelled. Default: 0.
    :param is_counted: whether ``counts`` has all jobs of the batch. Default: True.
    """

    batch: str
    is_finished: bool
    counts: dict[str, int]
    failed_jobs: list[FailedJob]
    more_failures: int = 0
    is_counted: bool = True

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
            return NO_JOBS_FOUND
        if all(JobStatus(status).is_terminal for status in self.counts):
            return "waiting for more jobs"
        return "running"

    @property
    def needs_count(self) -> bool:
        """Whether the batch is running and too large for its counts to be complete."""
        return not self.is_finished and not self.is_counted

    def with_counts(self, counts: dict[str, int]) -> BatchReport:
        """Return the report with these counts of all jobs."""
        return msgspec.structs.replace(self, counts=counts, is_counted=True)

    def describe(self, expected_jobs: int | None = None) -> str:
        """
        Return the progress of the batch, for the log.

        :param expected_jobs: the number of jobs that the batch has at least, or None if it is unknown.
        """
        if not self.counts:
            return f"{NO_JOBS_FOUND}; waiting. Check the name of the batch if this persists"
        return describe_progress(self.counts, expected_jobs or 0, is_counted=self.is_counted)

    def to_xcom(self) -> dict[str, Any]:
        """Return the report of a finished batch as a plain dict, for an XCom."""
        return {
            "batch": self.batch,
            "counts": self.counts,
            "failures": [job.to_xcom() for job in self.failed_jobs],
            "more_failures": self.more_failures,
        }

    def to_event(self) -> dict[str, Any]:
        """Return the report as a plain dict, for an event."""
        event: dict[str, Any] = msgspec.to_builtins(self)
        return event


def describe_progress(counts: Mapping[str, int], expected_jobs: int = 0, *, is_counted: bool = True) -> str:
    """
    Return how many jobs have finished, such as ``3 of 4 jobs finished (2 failed), 1 in progress``.

    :param counts: the number of jobs by status.
    :param expected_jobs: the number of jobs that there are at least.
    :param is_counted: whether the counts have all jobs.
    """
    found = sum(counts.values())
    total = max(found, expected_jobs)
    unfinished = {status: count for status, count in counts.items() if not JobStatus(status).is_terminal}
    failures = ", ".join(f"{counts[status]} {status}" for status in _FAILURES if counts.get(status))
    running = "".join(f", {count} {status.replace('_', ' ')}" for status, count in unfinished.items())
    if not is_counted:
        return ", ".join(filter(None, (failures, running.removeprefix(", "))))
    finished = f"{found - sum(unfinished.values())} of {total} job{'' if total == 1 else 's'} finished"
    more = "; waiting for more jobs" if not unfinished and found < total else ""
    return finished + (f" ({failures})" if failures else "") + running + more


class BatchCounter:
    """
    Counts the jobs of a batch by status with a few requests, however many jobs there are.

    The length of a list follows from its last page, which is near the one of the last count. The counts are exact only
    while no job changes its status and if the filter of the API is exact, so they are for the log.

    :param batch: the batch.
    """

    def __init__(self, batch: str) -> None:
        self._batch = batch
        self._last_pages: dict[JobStatus | None, int] = {}

    def count(self, statuses: Iterable[JobStatus] = JobStatus) -> Requests[dict[str, int]]:
        """
        Return the number of jobs by status, without zeros.

        :param statuses: the statuses to count. Default: all.
        """
        counts = {}
        for status in statuses:
            if length := (yield from self._measure(status)):
                counts[status.value] = length
        return counts

    def _measure(self, status: JobStatus) -> Requests[int]:
        last_full, first_empty = 0, None
        previous: list[JobSummary] = []
        number = self._last_pages.get(status, 1)
        while True:
            page: list[JobSummary] = yield endpoints.list_batch(self._batch, status=status, page_number=number)
            if 0 < len(page) < endpoints.MAX_PAGE_SIZE:
                self._last_pages[status] = number
                return (number - 1) * endpoints.MAX_PAGE_SIZE + len(page)
            # Some servers repeat their last page forever.
            if page and page != previous:
                last_full, previous = number, page
            else:
                first_empty = number
            if first_empty is not None and first_empty - last_full == 1:
                self._last_pages[status] = max(1, last_full)
                return last_full * endpoints.MAX_PAGE_SIZE
            number = number * 2 if first_empty is None else (last_full + first_empty) // 2


def send_all(requests: Requests[T], send: Callable[[endpoints.Request[Any]], Any]) -> T:
    """
    Send all requests of a generator, and return its result.

    :param requests: the generator.
    :param send: sends a request and returns its result.
    """
    request = next(requests)
    while True:
        try:
            request = requests.send(send(request))
        except StopIteration as end:
            result: T = end.value
            return result


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
            return _report(batch, failed, is_finished=True, is_counted=False)
    if is_running:
        # The first page of the complete list has all jobs of a small batch.
        pages = Pages[JobSummary]()
        pages.add(first := (yield endpoints.list_batch(batch)))
        counted = {job.job_id: job for job in first if _is_counted(batch, job)} if pages.is_complete else {}
        return _report(batch, counted or found, is_finished=False, is_counted=bool(counted))
    complete = yield from _list(batch)
    is_finished = len(complete) >= (expected_jobs or 1) and _all_finished(complete)
    if is_finished:
        is_finished = _statuses(complete) == _statuses((yield from _list(batch)))
    return _report(batch, complete, is_finished=is_finished)


def has_more_unfinished_jobs(batch: str, number: int) -> Requests[bool]:
    """
    Return whether more than a number of jobs of a batch are unfinished. Lists no more pages than that takes.

    :param batch: the batch. The filter of the API may let other jobs through, which do not count.
    :param number: the number.
    """
    found: dict[str, JobSummary] = {}
    for status in _UNFINISHED:
        if len(found) <= number:
            found |= yield from _list(batch, status, enough=number + 1 - len(found))
    return len(found) > number


def _list(batch: str, status: JobStatus | None = None, enough: float = float("inf")) -> Requests[dict[str, JobSummary]]:
    """List pages until they have enough jobs of the batch, or all of them."""
    found: dict[str, JobSummary] = {}
    pages = Pages[JobSummary]()
    while not pages.is_complete and len(found) < enough:
        page: list[JobSummary] = yield endpoints.list_batch(batch, status=status, page_number=pages.next_number)
        for job in page:
            if _is_counted(batch, job):
                found[job.job_id] = job
        pages.add(page)
    return found


def _is_counted(batch: str, job: JobSummary) -> bool:
    return job.batch == batch and job.status is not None


def _statuses(jobs: dict[str, JobSummary]) -> dict[str, JobStatus | None]:
    return {job_id: job.status for job_id, job in jobs.items()}


def _all_finished(jobs: dict[str, JobSummary]) -> bool:
    return all(job.status is not None and job.status.is_terminal for job in jobs.values())


def _report(batch: str, jobs: dict[str, JobSummary], *, is_finished: bool, is_counted: bool = True) -> BatchReport:
    counts = Counter(job.status for job in jobs.values())
    failed_jobs = [FailedJob(job.job_id, job.status, job.source) for job in jobs.values() if job.status in _FAILURES]
    return BatchReport(
        batch=batch,
        is_finished=is_finished,
        counts={status.value: counts[status] for status in JobStatus if counts[status]},
        failed_jobs=failed_jobs[:MAX_LISTED_FAILURES],
        more_failures=max(0, len(failed_jobs) - MAX_LISTED_FAILURES),
        is_counted=is_counted,
    )
