"""
What a watcher remembers between two polls, and how the lists of a poll change it. Nothing is sent from here.

The cursor holds the unfinished jobs, and the jobs that have finished so recently that the lists may still show them as
new or as unfinished. It grows with the number of unfinished jobs, and not with the age of the account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from airflow_wasabi_jobs.api.models import Job

# A list may show a new job so much later than its time of creation says. Until then, jobs of that time may be new.
LIST_DELAY = timedelta(seconds=60)
# A list may show a finished job as unfinished for a while, so the last jobs that finished are remembered.
MAX_RECENT_JOBS = 500
# Airflow logs a warning for a value of more than 64 KB in its store. Ids have up to 36 characters.
MAX_STORED_PENDING = 1000
MAX_STORED_FINISHED = 500

Selects = Callable[[Job], bool]
Times = dict[str, datetime | None]


class StoredCursor(msgspec.Struct, frozen=True):
    """
    The cursor as it is stored. Its size is bounded.

    :param horizon: jobs that were created until then are not new.
    :param pending: the ids of the unfinished jobs, oldest first.
    :param finished: the ids of jobs that have finished recently.
    """

    horizon: datetime | None
    pending: list[str]
    finished: list[str]


class Cursor(msgspec.Struct, frozen=True):
    """
    What a watcher remembers.

    :param horizon: jobs that were created until then are not new. None if the account had no job yet.
    :param pending: the jobs that were unfinished at the last poll, and when they were created.
    :param finished: the jobs that have finished recently, in this order, and when they were created.
    """

    horizon: datetime | None
    pending: Times
    finished: Times

    def is_new(self, job: Job) -> bool:
        """Whether a job was created since the last poll."""
        is_after_horizon = self.horizon is None or job.created is None or job.created > self.horizon
        return is_after_horizon and job.job_id not in self.finished and job.job_id not in self.pending

    def may_have_newer(self, page: list[Job]) -> bool:
        """Whether the page of the newest jobs after this one may have a new job."""
        created = [job.created for job in page if job.created is not None]
        if not created:
            return any(map(self.is_new, page))
        return self.horizon is None or min(created) > self.horizon

    def without_event(self, job_id: str) -> Cursor:
        """Return the cursor before the event of a finished job."""
        finished = {other: created for other, created in self.finished.items() if other != job_id}
        return Cursor(self.horizon, {job_id: self.finished.get(job_id), **self.pending}, finished)

    def to_store(self) -> dict[str, Any]:
        """
        Return the cursor as JSON of bounded size.

        Pending jobs that do not fit are found again by their time of creation: the horizon is moved before it.
        """
        pending = sorted(self.pending, key=lambda job_id: _sort_key(self.pending[job_id]))
        finished = list(self.finished)
        horizon = _latest([self.horizon, *(self.finished[job_id] for job_id in finished[:-MAX_STORED_FINISHED])])
        left_out = [created for job_id in pending[MAX_STORED_PENDING:] if (created := self.pending[job_id])]
        if left_out and horizon is not None:
            horizon = min(horizon, min(left_out) - timedelta(microseconds=1))
        stored = StoredCursor(horizon, pending[:MAX_STORED_PENDING], finished[-MAX_STORED_FINISHED:])
        content: dict[str, Any] = msgspec.to_builtins(stored)
        return content

    @classmethod
    def from_store(cls, content: Any) -> Cursor:
        """
        Return the cursor that :meth:`to_store` returned as JSON.

        :raises msgspec.ValidationError: if the JSON is not that of a cursor.
        """
        stored = msgspec.convert(content, StoredCursor)
        return cls(stored.horizon, dict.fromkeys(stored.pending), dict.fromkeys(stored.finished))


def first_cursor(newest: list[Job], *, finished_since: datetime, now: datetime, selects: Selects) -> Cursor:
    """
    Return the cursor of a watcher that has none. The jobs that are to be found have finished lately.

    :param newest: the newest jobs.
    :param finished_since: jobs that finished since then are pending, so that they get an event.
    :param now: the present time.
    :param selects: which jobs the watcher selects.
    """
    horizon = next_horizon(None, newest, now)
    pending: Times = {}
    finished: Times = {}
    for job in newest:
        if selects(job):
            is_old = job.status is not None and job.status.is_terminal and not _is_since(job, finished_since)
            group = finished if is_old else pending
            group[job.job_id] = job.created
    return Cursor(horizon, pending, finished)


def may_have_recent(newest: list[Job], page: list[Job], *, finished_since: datetime, now: datetime) -> bool:
    """
    Whether the next page of the newest jobs may matter for a first cursor.

    :param newest: all jobs so far, newest first.
    :param page: the jobs of the last page.
    :param finished_since: when the jobs that get an event finished at the earliest.
    :param now: the present time.
    """
    horizon = next_horizon(None, newest, now)
    created = [job.created for job in page if job.created is not None]
    return any(_is_since(job, finished_since) for job in page) or (
        horizon is not None and bool(created) and min(created) > horizon
    )


def jobs_to_check(
    cursor: Cursor, newest: Iterable[Job], unfinished: Mapping[str, Job], selects: Selects
) -> dict[str, datetime | None]:
    """Return the jobs that have probably finished since the last poll, with their times of creation."""
    new = {job.job_id: job.created for job in newest if cursor.is_new(job) and selects(job)}
    return {job_id: created for job_id, created in (cursor.pending | new).items() if job_id not in unfinished}


def next_cursor(
    cursor: Cursor,
    newest: Iterable[Job],
    unfinished: Mapping[str, Job],
    checked: Times,
    finished: set[str],
    *,
    now: datetime,
    selects: Selects,
) -> Cursor:
    """
    Return the cursor after a poll.

    :param cursor: the cursor before it.
    :param newest: the newest jobs.
    :param unfinished: the unfinished jobs of the account by their ids.
    :param checked: the jobs that :func:`jobs_to_check` returned.
    :param finished: those of them that have finished by their own status.
    :param now: the present time.
    :param selects: which jobs the watcher selects.
    """
    listed = {
        job_id: job.created for job_id, job in unfinished.items() if job_id not in cursor.finished and selects(job)
    }
    pending = listed | {job_id: created for job_id, created in checked.items() if job_id not in finished}
    horizon = next_horizon(cursor.horizon, newest, now)
    # The time of creation of a job that was loaded from the store is known as soon as a list shows it.
    times = {job.job_id: job.created for job in newest}
    all_finished = cursor.finished | {job_id: checked[job_id] for job_id in checked if job_id in finished}
    all_finished = {job_id: created or times.get(job_id) for job_id, created in all_finished.items()}
    recent = set(list(all_finished)[-MAX_RECENT_JOBS:])
    return Cursor(
        horizon,
        pending,
        {
            job_id: created
            for job_id, created in all_finished.items()
            if job_id in recent or (created is not None and horizon is not None and created > horizon)
        },
    )


def next_horizon(horizon: datetime | None, newest: Iterable[Job], now: datetime) -> datetime | None:
    """Return the horizon after a poll."""
    created = _latest(job.created for job in newest)
    return _latest([horizon, created and min(created, now - LIST_DELAY)])


def _is_since(job: Job, since: datetime) -> bool:
    at = job.completed or job.created
    return at is not None and at >= since


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((at for at in times if at is not None), default=None)


def _sort_key(created: datetime | None) -> float:
    return 0.0 if created is None else created.timestamp()
