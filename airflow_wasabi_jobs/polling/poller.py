"""The poller of one account: it owns the client, and groups the polls by their intervals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api.client import AsyncJobsClient
from airflow_wasabi_jobs.polling.poll import Poll, set_exception, to_raise
from airflow_wasabi_jobs.polling.poll_group import PollGroup
from airflow_wasabi_jobs.polling.request_queue import RequestQueue
from airflow_wasabi_jobs.polling.snapshot import Snapshot
from airflow_wasabi_jobs.polling.status_requests import StatusRequests

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.models import JobReport, JobStatus
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")


class Poller:
    """
    The poller of one account. It starts with its first request and ends when it is closed.

    :param account: the settings of the account.
    """

    def __init__(self, account: Settings) -> None:
        self.account = account
        self.subscriptions = 0
        self.failure: BaseException | None = None
        self._groups: dict[Hashable, PollGroup] = {}
        self._keys: dict[Poll, Hashable] = {}
        self._pending: set[Poll] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened: asyncio.Future[tuple[RequestQueue, StatusRequests]] = asyncio.get_running_loop().create_future()
        self._main_task: asyncio.Task[None] | None = None
        self._snapshot = Snapshot(-math.inf)

    async def poll(self, poll: Poll, *, align: bool, first: bool) -> JobReport | JobStatus:
        """
        Poll a job when it is due, and return as soon as there is something to report.

        :param poll: the poll.
        :param align: whether to poll together with other waits of the same interval.
        :param first: whether this is the first poll of a wait.
        """
        requests, statuses = await self._open()
        # Growing intervals differ from wait to wait, so those within a factor of two form a group.
        key = poll.interval if align else ("backoff", math.frexp(poll.interval)[1])
        if self._keys.get(poll) != key:
            self.leave(poll)
            self._keys[poll] = key
            self._groups.setdefault(key, PollGroup(requests, statuses, self._start_task)).members.add(poll)
        group = self._groups[key]
        if align:
            poll.due_at = group.next_due_time(poll.interval, first=first)
        group.schedule(poll)
        self._pending.add(poll)
        try:
            return await poll.result
        finally:
            self._pending.discard(poll)
            group.cancel(poll)

    def leave(self, poll: Poll) -> None:
        """Forget a poll whose wait has ended."""
        if poll in self._keys:
            key = self._keys.pop(poll)
            group = self._groups[key]
            group.members.discard(poll)
            if not group.members:
                del self._groups[key]

    async def send(self, request: Request[T], connection_name: str) -> T:
        """Send a request that is not a poll."""
        since = asyncio.get_running_loop().time()
        requests, _ = await self._open()
        return await requests.send(request, connection_name, since=since)

    def get_snapshot(self, due_at: float) -> Snapshot:
        """Return the results of a poll that watchers share, or those of a later one."""
        if self._snapshot.due_at < due_at:
            self._snapshot = Snapshot(due_at)
        return self._snapshot

    async def close(self) -> None:
        """End the poller and all its requests."""
        if self._main_task is not None:
            self._main_task.cancel()
            await asyncio.wait([self._main_task])

    async def _open(self) -> tuple[RequestQueue, StatusRequests]:
        if self._main_task is None:
            self._main_task = asyncio.create_task(self._run(), name="wasabi-poller")
        await asyncio.wait([self._opened])
        if self.failure is not None:
            raise to_raise(self.failure)
        return self._opened.result()

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            async with AsyncJobsClient(self.account, metrics.count_request) as client:
                requests = RequestQueue(client, self.account)
                self._opened.set_result((requests, StatusRequests(requests, self._start_task)))
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    await self._stop()
        except BaseException as error:
            # Whatever the error is: no wait may stay pending after the poller has ended.
            self.failure = error
            self._opened.cancel()
            set_exception(self._pending, error)
            if not isinstance(error, Exception):
                raise

    async def _stop(self) -> None:
        for group in self._groups.values():
            group.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
