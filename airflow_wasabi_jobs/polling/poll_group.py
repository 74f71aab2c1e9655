"""The polls with one interval: those that are due at the same time are sent together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.polling.job_lists import UnfinishedJobLists
from airflow_wasabi_jobs.polling.poll import Poll, set_exception, set_result

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.models import JobStatus, JobSummary
    from airflow_wasabi_jobs.polling.request_queue import RequestQueue
    from airflow_wasabi_jobs.polling.status_requests import StatusRequests

# A timer may fire so many seconds early.
TIMER_TOLERANCE_SECONDS = 0.05
# A list could be out of date forever, so a job is requested by its id after so many polls by list.
MAX_LIST_POLLS = 100
# So many waits receive their results before the event loop runs other tasks.
MAX_RESULTS_AT_ONCE = 20


class PollGroup:
    """
    The polls with one interval. Their lists take no time from polls with other intervals.

    :param requests: sends the requests.
    :param statuses: requests the statuses of single jobs.
    :param start_task: starts a task that ends with the poller.
    """

    def __init__(
        self,
        requests: RequestQueue,
        statuses: StatusRequests,
        start_task: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.members: set[Poll] = set()
        self._requests = requests
        self._statuses = statuses
        self._start_task = start_task
        self._phase: float | None = None
        self._polls_by_time: dict[float, set[Poll]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}
        self._due: list[Poll] = []
        self._lists = UnfinishedJobLists()

    def next_due_time(self, interval: float, *, first: bool) -> float:
        """Return when polls that are aligned with each other are due next."""
        now = asyncio.get_running_loop().time()
        phase = self._phase = now if self._phase is None else self._phase
        # A poll that was sent a little early is not sent again.
        earliest = now + (interval / 2 if first else min(TIMER_TOLERANCE_SECONDS, interval / 2))
        return phase + interval * (math.floor((earliest - phase) / interval) + 1)

    def schedule(self, poll: Poll) -> None:
        """Send a poll when it is due."""
        if poll.due_at not in self._polls_by_time:
            self._polls_by_time[poll.due_at] = set()
            self._timers[poll.due_at] = asyncio.get_running_loop().call_at(poll.due_at, self._on_due, poll.due_at)
        self._polls_by_time[poll.due_at].add(poll)

    def cancel(self, poll: Poll) -> None:
        """Forget a poll that is not due yet."""
        polls = self._polls_by_time.get(poll.due_at, set())
        polls.discard(poll)
        if not polls and poll.due_at in self._timers:
            del self._polls_by_time[poll.due_at]
            self._timers.pop(poll.due_at).cancel()

    def close(self) -> None:
        """Cancel all timers."""
        for timer in self._timers.values():
            timer.cancel()

    def _on_due(self, due_at: float) -> None:
        del self._timers[due_at]
        is_first = not self._due
        self._due += self._polls_by_time.pop(due_at)
        if is_first:
            self._start_task(self._send_due_polls())

    async def _send_due_polls(self) -> None:
        await self._requests.rate_limiter.wait()
        polls, self._due = self._due, []
        try:
            await self._send(polls)
        except Exception as error:  # noqa: BLE001 - whatever the error is, no wait may stay without a result
            set_exception(polls, error)

    async def _send(self, polls: list[Poll]) -> None:
        since = asyncio.get_running_loop().time()
        polls_by_job: dict[str, list[Poll]] = {}
        for poll in polls:
            if not poll.result.done():
                polls_by_job.setdefault(poll.job_id, []).append(poll)
        metrics.count("polls", sum(map(len, polls_by_job.values())))

        async def send_page(request: Request[list[JobSummary]]) -> list[JobSummary] | WasabiApiError:
            try:
                return await self._requests.send(request, since=since)
            except WasabiApiError as error:
                return error

        running = await self._lists.find_running(
            {
                job_id: polls_of_job[0].last_status
                for job_id, polls_of_job in polls_by_job.items()
                if all(poll.list_polls < MAX_LIST_POLLS for poll in polls_of_job)
            },
            send=send_page,
            timeout_seconds=min((poll.interval for poll in polls), default=0.0) / 2,
        )
        for job_id, polls_of_job in polls_by_job.items():
            if job_id not in running:
                self._statuses.add(polls_of_job, since=since)
        for number, (job_id, status) in enumerate(running.items(), start=1):
            for poll in polls_by_job[job_id]:
                self._handle_listed_status(poll, status)
            if not number % MAX_RESULTS_AT_ONCE:
                await asyncio.sleep(0)

    def _handle_listed_status(self, poll: Poll, status: JobStatus) -> None:
        poll.list_polls += 1
        if status is not poll.last_status or poll.report_unchanged_at <= asyncio.get_running_loop().time():
            poll.last_status = status
            set_result([poll], status)
        elif not poll.result.done():
            # Waking the wait for an unchanged status would be most of what a poll costs.
            poll.due_at = self.next_due_time(poll.interval, first=False)
            self.schedule(poll)
