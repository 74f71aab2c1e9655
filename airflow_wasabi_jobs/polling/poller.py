"""The poller of one account: polls that are due at the same time are sent together."""

from __future__ import annotations

import asyncio
import copy
import heapq
import math
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
import tenacity

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.client import AsyncJobsClient
from airflow_wasabi_jobs.api.client.retries import retry_arguments
from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.polling.job_lists import UnfinishedJobLists
from airflow_wasabi_jobs.polling.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import JobReport, JobStatus, JobSummary
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

MAX_CONCURRENT_REQUESTS = 64
# Polls that are due within so many seconds are sent together.
GROUPING_SECONDS = 0.05
# A list could be out of date forever, so a job is requested by its id after so many polls by list.
MAX_LIST_POLLS = 100
# So many waits receive their results before the event loop runs other tasks.
MAX_RESULTS_AT_ONCE = 20


class Poll(msgspec.Struct, eq=False):
    """
    A poll of one job, repeated until there is something to report.

    :param job_id: the job's id.
    :param connection_name: how messages refer to the connection.
    :param interval: seconds between two polls.
    :param due_at: when to poll next, on the clock of the event loop.
    :param last_status: the last known status.
    :param list_polls: how many polls by list there were since the job was last requested by its id.
    :param report_unchanged_at: when to report a status that has not changed, on the same clock.
    :param result: receives the result.
    """

    job_id: str
    connection_name: str
    interval: float
    due_at: float
    last_status: JobStatus | None
    list_polls: int
    report_unchanged_at: float
    result: asyncio.Future[JobReport | JobStatus]


class Poller:
    """
    The poller of one account. It starts with its first poll and ends when it is closed.

    :param account: the settings of the account.
    """

    def __init__(self, account: Settings) -> None:
        self.account = account
        self.subscriptions = 0
        self.failure: BaseException | None = None
        self._polls_by_time: dict[float, list[Poll]] = {}
        self._due_times: list[float] = []
        self._phases: dict[float, float] = {}
        self._pending: set[Poll] = set()
        self._has_new_time = asyncio.Event()
        self._status_queue: deque[list[Poll]] = deque()
        self._workers = 0
        self._rate_limiter = RateLimiter()
        self._lists = UnfinishedJobLists()
        self._is_started = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def next_due_time(self, interval: float, *, first: bool) -> float:
        """Return when the waits with that interval poll next."""
        now = asyncio.get_running_loop().time()
        phase = self._phases.setdefault(interval, now)
        # A poll that was sent a little early, together with others, is not sent again.
        earliest = now + (interval / 2 if first else min(GROUPING_SECONDS, interval / 2))
        return phase + interval * (math.floor((earliest - phase) / interval) + 1)

    async def poll(self, poll: Poll) -> JobReport | JobStatus:
        """Poll a job when it is due, and return as soon as there is something to report."""
        self._start()
        self._schedule(poll)
        self._pending.add(poll)
        try:
            return await poll.result
        finally:
            self._pending.discard(poll)

    async def send(self, request: endpoints.Request[T], connection_name: str) -> T:
        """Send a request that is not a poll."""
        self._start()
        await self._is_started.wait()
        if self.failure is not None:
            raise self._failure_to_raise()
        return await self._send(request, connection_name)

    def _start(self) -> None:
        if self.failure is not None:
            raise self._failure_to_raise()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="wasabi-poller")

    async def close(self) -> None:
        """End the poller and all its requests."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with AsyncJobsClient(self.account) as self._client, asyncio.TaskGroup() as self._tasks:
                self._is_started.set()
                while True:
                    polls = await self._next_polls()
                    self._tasks.create_task(self._send_polls(polls))
        except BaseException as error:
            # Whatever the error is: no wait may stay pending after the poller has ended.
            self.failure = _unwrap(error)
            self._is_started.set()
            for poll in self._pending:
                if not poll.result.done():
                    poll.result.set_exception(self._failure_to_raise())
            if not isinstance(error, Exception):
                raise

    def _failure_to_raise(self) -> BaseException:
        # A new exception for each wait: an exception collects the tracebacks of all who raise it.
        if isinstance(self.failure, WasabiApiError):
            return copy.copy(self.failure)
        error = RuntimeError(f"The poller for {self.account.base_url} failed: {self.failure!r}")
        error.__cause__ = self.failure
        return error

    def _schedule(self, poll: Poll) -> None:
        if poll.due_at not in self._polls_by_time:
            self._polls_by_time[poll.due_at] = []
            heapq.heappush(self._due_times, poll.due_at)
            self._has_new_time.set()
        self._polls_by_time[poll.due_at].append(poll)

    async def _next_polls(self) -> list[Poll]:
        loop = asyncio.get_running_loop()
        while True:
            self._has_new_time.clear()
            await self._rate_limiter.wait()
            if self._due_times and self._due_times[0] <= loop.time():
                break
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._due_times[0] if self._due_times else None):
                    await self._has_new_time.wait()
        polls = []
        while self._due_times and self._due_times[0] <= loop.time() + GROUPING_SECONDS:
            polls += self._polls_by_time.pop(heapq.heappop(self._due_times))
        return polls

    async def _send_polls(self, polls: list[Poll]) -> None:
        polls_by_job: dict[str, list[Poll]] = {}
        for poll in polls:
            if not poll.result.done():
                polls_by_job.setdefault(poll.job_id, []).append(poll)
        running = await self._lists.find_running(
            {
                job_id: polls_of_job[0].last_status
                for job_id, polls_of_job in polls_by_job.items()
                if all(poll.list_polls < MAX_LIST_POLLS for poll in polls_of_job)
            },
            send=self._send_page,
            timeout_seconds=min((poll.interval for poll in polls), default=0.0) / 2,
        )
        self._status_queue.extend(
            polls_of_job for job_id, polls_of_job in polls_by_job.items() if job_id not in running
        )
        while self._workers < min(MAX_CONCURRENT_REQUESTS, len(self._status_queue)):
            self._workers += 1
            self._tasks.create_task(self._request_statuses())
        for number, (job_id, status) in enumerate(running.items(), start=1):
            for poll in polls_by_job[job_id]:
                self._handle_listed_status(poll, status)
            if not number % MAX_RESULTS_AT_ONCE:
                await asyncio.sleep(0)

    def _handle_listed_status(self, poll: Poll, status: JobStatus) -> None:
        poll.list_polls += 1
        if status is not poll.last_status or poll.report_unchanged_at <= asyncio.get_running_loop().time():
            poll.last_status = status
            _set_result([poll], status)
        elif not poll.result.done():
            # Waking the wait for an unchanged status would be most of what a poll costs.
            poll.due_at = self.next_due_time(poll.interval, first=False)
            self._schedule(poll)

    async def _request_statuses(self) -> None:
        try:
            while self._status_queue:
                polls = self._status_queue.popleft()
                first = next((poll for poll in polls if not poll.result.done()), None)
                if first is not None:
                    try:
                        report = await self._send(endpoints.get_job_status(first.job_id), first.connection_name)
                        _set_result(polls, report)
                    except WasabiApiError as error:
                        _set_error(polls, error)
        finally:
            self._workers -= 1

    async def _send_page(self, request: endpoints.Request[list[JobSummary]]) -> list[JobSummary] | WasabiApiError:
        try:
            return await self._send(request)
        except WasabiApiError as error:
            return error

    async def _send(self, request: endpoints.Request[T], connection_name: str | None = None) -> T:
        async def send_once() -> T:
            await self._rate_limiter.wait()
            try:
                result = await self._client.send_once(request, deadline, connection_name)
            except WasabiApiError as error:
                self._rate_limiter.record_error(error)
                raise
            self._rate_limiter.record_success()
            return result

        await self._rate_limiter.wait()
        deadline = time.monotonic() + self.account.total_timeout
        result: T = await tenacity.AsyncRetrying(**retry_arguments(self.account, request))(send_once)
        return result


def _set_result(polls: Iterable[Poll], result: JobReport | JobStatus) -> None:
    for poll in polls:
        if not poll.result.done():
            poll.result.set_result(result)


def _set_error(polls: Iterable[Poll], error: WasabiApiError) -> None:
    for poll in polls:
        if not poll.result.done():
            poll.result.set_exception(copy.copy(error))


def _unwrap(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
