"""Requests for the status of single jobs, a bounded number of them at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.exceptions import ApiTimeoutError
from airflow_wasabi_jobs.polling.poll import Poll, set_exception, set_result
from airflow_wasabi_jobs.polling.request_queue import MAX_CONCURRENT_REQUESTS

if TYPE_CHECKING:
    from airflow_wasabi_jobs.polling.request_queue import RequestQueue

# Jobs whose last request timed out share fewer workers, so that they never occupy all of them.
MAX_CONCURRENT_SLOW_REQUESTS = MAX_CONCURRENT_REQUESTS // 4


class _QueuedPolls(NamedTuple):
    polls: list[Poll]
    since: float


class StatusRequests:
    """
    Requests the statuses of jobs, in order of arrival.

    :param requests: sends the requests.
    :param start_task: starts a task that ends with the poller.
    """

    def __init__(self, requests: RequestQueue, start_task: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._requests = requests
        self._start_task = start_task
        self._regular: deque[_QueuedPolls] = deque()
        self._slow: deque[_QueuedPolls] = deque()
        self._regular_workers = self._slow_workers = 0

    def add(self, polls: list[Poll], *, since: float) -> None:
        """
        Request the status of a job, and report it to its polls.

        :param polls: polls of one job.
        :param since: when the polls were due.
        """
        queued = _QueuedPolls(polls, since)
        if any(poll.has_timed_out for poll in polls):
            self._slow.append(queued)
            if self._slow_workers < MAX_CONCURRENT_SLOW_REQUESTS:
                self._slow_workers += 1
                self._start_task(self._work_slow())
        else:
            self._regular.append(queued)
            if self._regular_workers < MAX_CONCURRENT_REQUESTS:
                self._regular_workers += 1
                self._start_task(self._work_regular())

    async def _work_regular(self) -> None:
        try:
            while self._regular:
                await self._request(self._regular.popleft())
        finally:
            self._regular_workers -= 1

    async def _work_slow(self) -> None:
        try:
            while self._slow:
                await self._request(self._slow.popleft())
        finally:
            self._slow_workers -= 1

    async def _request(self, queued: _QueuedPolls) -> None:
        polls = [poll for poll in queued.polls if not poll.result.done()]
        if not polls:
            return
        try:
            request = endpoints.get_job_status(polls[0].job_id)
            report = await self._requests.send(request, polls[0].connection_name, since=queued.since)
        except Exception as error:  # noqa: BLE001 - whatever the error is, it concerns only the waits for this job
            for poll in polls:
                poll.has_timed_out = isinstance(error, ApiTimeoutError)
            set_exception(polls, error)
            return
        for poll in polls:
            poll.has_timed_out, poll.list_polls, poll.last_status = False, 0, report.status
        set_result(polls, report)
