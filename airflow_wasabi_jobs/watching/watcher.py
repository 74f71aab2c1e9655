"""The polls of one watcher. They never raise, and return the payloads of the events."""

from __future__ import annotations

import asyncio
import functools
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.exceptions import NotFoundError, WasabiApiError
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.polling import Subscription
from airflow_wasabi_jobs.watching import account
from airflow_wasabi_jobs.watching.cursor import (
    Cursor,
    first_cursor,
    jobs_to_check,
    may_have_recent,
    next_cursor,
)
from airflow_wasabi_jobs.watching.failures import FailureLog
from airflow_wasabi_jobs.watching.store import CursorStore

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.models import Job
    from airflow_wasabi_jobs.polling.registry import ReadSettings
    from airflow_wasabi_jobs.polling.snapshot import Snapshot
    from airflow_wasabi_jobs.watching.polls import SharedPoll
    from airflow_wasabi_jobs.watching.selection import Selection

T = TypeVar("T")

# A poll that takes longer goes on in the background, because Airflow ends a trigger that blocks its stream.
MAX_SECONDS_PER_POLL = 20.0
# So many polls in a row request the details of a finished job, or a job that the API does not find.
MAX_ATTEMPTS = 3
# More jobs wait for the next poll, so that the first events do not come late if many jobs have finished.
MAX_CHECKS_PER_POLL = 1000

# The scheduler usually needs one second or two to create a run for an event.
MIN_SECONDS_BEFORE_LAST_EVENT = 5.0


class Check(NamedTuple):
    """
    What the status request of a job has shown.

    :param job_id: the job's id.
    :param is_done: whether the job is not checked again.
    :param payload: the payload of its event, if there is one.
    :param error: the error of a request.
    """

    job_id: str
    is_done: bool = False
    payload: dict[str, Any] | None = None
    error: WasabiApiError | None = None


class PollResult(NamedTuple):
    """
    What a poll has found.

    :param payloads: the payloads of the events.
    :param cursor: the cursor after them.
    """

    payloads: list[dict[str, Any]]
    cursor: Cursor | None


class Watcher:
    """
    Finds the jobs that finish, for as long as the ``async with`` block lasts.

    :param selection: the jobs that it finds.
    :param read_settings: reads the connection.
    :param poke_interval: seconds between two polls.
    :param lookback: jobs that finished so many seconds before the start get an event, if no cursor is stored.
    :param asset_state_store: Airflow's store of the asset, or None before Airflow 3.3.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        read_settings: ReadSettings,
        poke_interval: float,
        lookback: float,
        asset_state_store: Any,
    ) -> None:
        self._selection = selection
        self._read_settings = read_settings
        self._finished_since = utcnow() - timedelta(seconds=lookback)
        self._store = CursorStore(asset_state_store, key=selection.key, subject=selection.subject)
        self._failures = FailureLog(selection.subject, poke_interval)
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[PollResult] | None = None
        self._is_loaded = False
        self._cursor: Cursor | None = None
        self._held: list[dict[str, Any]] = []
        self._fired_at = -math.inf
        self._listed: dict[str, Job] = {}
        self._attempts: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._unsubscribe()

    async def poll(self, poll: SharedPoll) -> list[dict[str, Any]]:
        """
        Poll once, unless the last poll goes on or has failed a short time ago.

        :param poll: the poll.
        :return: the payloads of the events.
        """
        payloads: list[dict[str, Any]] = []
        if self._task is None and not poll.is_for_last_event and not self._failures.is_backing_off(poll.due_at):
            self._task = asyncio.create_task(self._poll(poll.due_at))
        if self._task is not None:
            await asyncio.wait([self._task], timeout=MAX_SECONDS_PER_POLL)
            if self._task.done():
                (payloads, self._cursor), self._task = self._task.result(), None
        return self._hold_last_back(payloads)

    def save_when_confirmed(self, poll: SharedPoll) -> None:
        """
        Store the cursor when Airflow has stored the events of a poll. Call this after the last of them.

        :param poll: the poll.
        """
        cursor = self._cursor
        if cursor is not None:
            for payload in self._held:
                cursor = cursor.without_event(payload["job_id"])
            poll.on_confirmed(functools.partial(self._store.save, cursor))

    def _hold_last_back(self, payloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Return the payloads to fire now.

        The first event starts a run, and Airflow puts events that follow before the run exists into the next run, which
        only a later event starts. So the last event waits until the run exists: it starts another one, with all others.
        """
        now = asyncio.get_running_loop().time()
        payloads, self._held = self._held + payloads, []
        if len(payloads) > 1 or now - self._fired_at < MIN_SECONDS_BEFORE_LAST_EVENT:
            payloads, self._held = payloads[:-1], payloads[-1:]
        if payloads:
            self._fired_at = now
        return payloads

    async def _poll(self, due_at: float) -> PollResult:
        try:
            if not self._is_loaded:
                self._cursor, self._is_loaded = await self._store.load(), True
            subscription = await self._subscribe()
            if self._failures.failed_at is not None:
                await subscription.read_connection_again(since=self._failures.failed_at)
            result = await self._poll_account(subscription, await subscription.get_snapshot(due_at))
        except Exception as error:  # noqa: BLE001 - Airflow restarts a trigger that raises every two seconds
            await self._failures.record(error, due_at)
            if not isinstance(error, WasabiApiError) or not error.is_transient:
                # The poller may have failed, and another subscription gets a new one.
                await self._unsubscribe()
            return PollResult([], self._cursor)
        await self._failures.record_success()
        return result

    async def _poll_account(self, subscription: Subscription, snapshot: Snapshot) -> PollResult:
        async def send(request: Request[T]) -> T:
            return await snapshot.get(request.path, lambda: subscription.send(request))

        cursor, now = self._cursor, utcnow()
        newest = await account.list_newest(send, self._has_more)
        if cursor is None:
            cursor = first_cursor(newest, finished_since=self._finished_since, now=now, selects=self._selection.has)
        unfinished = await account.list_unfinished(send)
        self._listed |= {job.job_id: job for job in newest}
        to_check = jobs_to_check(cursor, newest, unfinished, self._selection.has)
        checks = await asyncio.gather(
            *(self._check(job_id, subscription, snapshot, send) for job_id in islice(to_check, MAX_CHECKS_PER_POLL))
        )
        await asyncio.to_thread(self._log_errors, checks)
        done = {check.job_id for check in checks if check.is_done}
        cursor = next_cursor(cursor, newest, unfinished, to_check, done, now=now, selects=self._selection.has)
        self._listed = {job_id: job for job_id, job in (self._listed | unfinished).items() if job_id in cursor.pending}
        self._attempts = Counter({job_id: self._attempts[job_id] for job_id in to_check.keys() - done})
        return PollResult([check.payload for check in checks if check.payload is not None], cursor)

    def _has_more(self, newest: list[Job], page: list[Job]) -> bool:
        if self._cursor is None:
            return may_have_recent(newest, page, finished_since=self._finished_since, now=utcnow())
        return self._cursor.may_have_newer(page)

    async def _check(self, job_id: str, subscription: Subscription, snapshot: Snapshot, send: account.Send) -> Check:
        self._attempts[job_id] += 1
        is_last_attempt = self._attempts[job_id] >= MAX_ATTEMPTS
        try:
            report = await send(endpoints.get_job_status(job_id))
            if not report.status.is_terminal:
                del self._attempts[job_id]
                return Check(job_id)
            if report.status.value not in self._selection.statuses:
                return Check(job_id, is_done=True)
            listed = self._listed.get(job_id)
            payload = await snapshot.get(
                ("payload", job_id),
                lambda: account.get_payload(report, listed, subscription.send, is_last_attempt=is_last_attempt),
            )
        except NotFoundError as error:
            return Check(job_id, is_done=is_last_attempt, error=error)
        except WasabiApiError as error:
            return Check(job_id, error=error)
        return Check(job_id, is_done=True, payload=payload)

    def _log_errors(self, checks: list[Check]) -> None:
        errors = [check for check in checks if check.error is not None]
        for check in errors:
            if check.is_done:
                LOG.warning("Job %r is not watched any longer. %s", check.job_id, check.error)
        new = [check for check in errors if self._attempts[check.job_id] == 1]
        if new:
            LOG.warning(
                "%s: polling %d finished job%s failed; retrying at each poll. %s",
                self._selection.subject,
                len(new),
                "" if len(new) == 1 else "s",
                new[0].error,
            )

    async def _subscribe(self) -> Subscription:
        if self._subscription is None:
            self._subscription = await Subscription(self._selection.wasabi_conn_id, self._read_settings).__aenter__()
        return self._subscription

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.__aexit__()


def utcnow() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)
