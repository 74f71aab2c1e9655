"""
What a look at a batch asks for, and what it makes of the answers. Nothing is sent from here.

A look is a generator: it yields calls and is sent their results, by who carries them, on a worker or in an
event loop.

The lists that it reads are no snapshot: between two pages jobs begin and change their status. So the end is
only concluded from two whole lists in a row that are alike, and in which every job is final.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

from airflow_wasabi_jobs.api import calls
from airflow_wasabi_jobs.api.models import JobState, JobStatus

T = TypeVar("T")

Asking = Generator[calls.Call[Any], Any, T]

# So many jobs that failed are listed by their ids.
LISTED_FAILURES = 100

_UNFINISHED = tuple(status for status in JobStatus if not status.is_final)
_FAILURES = (JobStatus.FAILED, JobStatus.CANCELLED)


class BatchReport(msgspec.Struct, frozen=True):
    """
    Where a batch stands.

    :param batch: the batch.
    :param is_over: whether there is nothing more to wait for.
    :param counts: how many jobs have which status. Until it is over not all jobs are looked at, so there may be more.
    :param failures: the ids of jobs that failed or were cancelled, at most 100 of them.
    :param more_failures: how many more there are.
    """

    batch: str
    is_over: bool
    counts: dict[str, int]
    failures: list[str]
    more_failures: int = 0

    @property
    def failure_count(self) -> int:
        """How many jobs failed or were cancelled."""
        return len(self.failures) + self.more_failures

    @property
    def state(self) -> str:
        """Where the batch stands, in words."""
        if self.is_over:
            return "over"
        if not self.counts:
            return "without a job yet"
        if all(JobStatus(status).is_final for status in self.counts):
            return "waiting for more jobs"
        return "running"

    def counts_told(self) -> str:
        """Return the counts, for the log."""
        return ", ".join(f"{status}: {count}" for status, count in self.counts.items())

    def as_xcom(self) -> dict[str, Any]:
        """Return the report of a batch that is over as a plain dict, for an XCom."""
        return {
            "batch": self.batch,
            "counts": self.counts,
            "failures": self.failures,
            "more_failures": self.more_failures,
        }

    def as_event(self) -> dict[str, Any]:
        """Return all of the report as a plain dict, for an event."""
        return {"is_over": self.is_over, **self.as_xcom()}


def look(batch: str, *, expected_jobs: int | None, max_failures: int, fail_fast: bool) -> Asking[BatchReport]:
    """
    Look once at a batch.

    While a job of it is unfinished that takes a page or two of each list by status, however many jobs there are.
    All of them are looked at when none seems to be left.

    :param batch: the batch. The API's filter may let other jobs through, which do not count.
    :param expected_jobs: how many jobs it has at least, or None for one.
    :param max_failures: how many jobs may fail or be cancelled.
    :param fail_fast: whether it is over as soon as more than that did.
    """
    seen: dict[str, JobStatus] = {}
    for status in _UNFINISHED:
        seen |= yield from _read(batch, status, enough=1)
    is_running = bool(seen)
    if fail_fast:
        failed: dict[str, JobStatus] = {}
        for status in _FAILURES:
            failed |= yield from _read(batch, status, enough=max_failures + 1)
        seen |= failed
        if len(failed) > max_failures:
            return _report(batch, failed, is_over=True)
    if is_running:
        return _report(batch, seen, is_over=False)
    whole = yield from _read(batch)
    is_over = len(whole) >= (expected_jobs or 1) and _all_final(whole)
    if is_over:
        is_over = whole == (yield from _read(batch))
    return _report(batch, whole, is_over=is_over)


def _read(batch: str, status: JobStatus | None = None, enough: float = float("inf")) -> Asking[dict[str, JobStatus]]:
    """Read pages until there are enough jobs of the batch, or no more."""
    found: dict[str, JobStatus] = {}
    seen: set[str] = set()
    for number in itertools.count(1):
        page: list[JobState] = yield calls.list_batch(batch, status=status, page_number=number)
        before = len(seen)
        for job in page:
            seen.add(job.job_id)
            if job.batch == batch and job.status is not None:
                found[job.job_id] = job.status
        # A page without a new job is none: some servers repeat the last one for ever.
        if len(page) < calls.LONGEST_PAGE or len(seen) == before or len(found) >= enough:
            break
    return found


def _all_final(jobs: dict[str, JobStatus]) -> bool:
    return all(status.is_final for status in jobs.values())


def _report(batch: str, jobs: dict[str, JobStatus], *, is_over: bool) -> BatchReport:
    counts = Counter(jobs.values())
    failures = [job_id for job_id, status in jobs.items() if status in _FAILURES]
    return BatchReport(
        batch=batch,
        is_over=is_over,
        counts={status.value: counts[status] for status in JobStatus if counts[status]},
        failures=failures[:LISTED_FAILURES],
        more_failures=max(0, len(failures) - LISTED_FAILURES),
    )
