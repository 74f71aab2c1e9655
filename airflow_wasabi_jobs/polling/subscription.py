"""The subscription of one wait to the poller of its account."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Self, TypeVar

from airflow_wasabi_jobs.api.exceptions import AuthenticationError
from airflow_wasabi_jobs.api.models import JobReport, JobStatus
from airflow_wasabi_jobs.polling.poller import MAX_LIST_POLLS, Poll, Poller
from airflow_wasabi_jobs.polling.registry import Registry, account_of

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.settings import Settings
    from airflow_wasabi_jobs.polling.registry import ReadSettings

T = TypeVar("T")


class Subscription:
    """
    Polls jobs and sends requests through the poller of an account, for as long as the ``async with`` block lasts.

    :param conn_id: id of the connection. All waits on it share one look-up of the connection, and one more after a 401.
    :param read_settings: reads the connection.
    """

    def __init__(self, conn_id: str, read_settings: ReadSettings) -> None:
        self._registry = Registry.of_running_loop()
        self._connection = self._registry.get_connection(conn_id, read_settings)
        self._poller: Poller | None = None
        self._last_status: JobStatus | None = None
        self._started_at = asyncio.get_running_loop().time()
        self._poll_count = 0
        # A random start, so that waits that begin together do not request their statuses together.
        self._list_polls = -random.randrange(MAX_LIST_POLLS)  # noqa: S311 - jitter, not a secret

    async def __aenter__(self) -> Self:
        self._connection.subscriptions += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._registry.release_connection(self._connection)
        await self._release_poller()

    async def poll(
        self, job_id: str, interval: float, *, align: bool, report_unchanged_after: float = 0
    ) -> JobReport | JobStatus:
        """
        Wait for the interval, then poll a job.

        :param job_id: the job's id.
        :param interval: seconds to wait.
        :param align: whether to poll together with other waits of the same interval. The first poll follows after half
            an interval to one and a half then.
        :param report_unchanged_after: with ``align``, seconds for which to poll on while a list shows no change.
        :return: the job's own report; or, while the job is running, the status that a list shows.
        :raises WasabiApiError: the error of the status request, or of the connection.
        """
        poller = await self._get_poller(await self._connection.get_settings(since=self._started_at))
        now = asyncio.get_running_loop().time()
        due_at = poller.next_due_time(interval, first=not self._poll_count) if align else now + interval
        self._poll_count += 1
        poll = self._create_poll(job_id, interval, due_at, now + report_unchanged_after if align else now)
        try:
            result = await poller.poll(poll)
        except AuthenticationError:
            settings = await self._connection.refresh_settings(since=poll.due_at)
            if account_of(settings) == poller.account:
                raise
            poller = await self._get_poller(settings)
            poll = self._create_poll(job_id, interval, poll.due_at, now)
            result = await poller.poll(poll)
        if isinstance(result, JobStatus):
            self._last_status, self._list_polls = result, poll.list_polls
        else:
            self._last_status, self._list_polls = result.status, 0
        return result

    async def send(self, request: Request[T]) -> T:
        """
        Send another request, within the rate limit of the account.

        :param request: the request.
        :raises WasabiApiError: if there is no result.
        """
        started_at = asyncio.get_running_loop().time()
        poller = await self._get_poller(await self._connection.get_settings(since=self._started_at))
        try:
            return await poller.send(request, self._connection.name)
        except AuthenticationError:
            settings = await self._connection.refresh_settings(since=started_at)
            if account_of(settings) == poller.account:
                raise
        poller = await self._get_poller(settings)
        return await poller.send(request, self._connection.name)

    def _create_poll(self, job_id: str, interval: float, due_at: float, report_unchanged_at: float) -> Poll:
        return Poll(
            job_id=job_id,
            connection_name=self._connection.name,
            interval=interval,
            due_at=due_at,
            last_status=self._last_status,
            list_polls=self._list_polls,
            report_unchanged_at=report_unchanged_at,
            result=asyncio.get_running_loop().create_future(),
        )

    async def _get_poller(self, settings: Settings) -> Poller:
        if self._poller is None or self._poller.account != account_of(settings):
            await self._release_poller()
            self._poller = self._registry.acquire_poller(account_of(settings))
        return self._poller

    async def _release_poller(self) -> None:
        poller, self._poller = self._poller, None
        if poller is not None:
            await self._registry.release_poller(poller)
