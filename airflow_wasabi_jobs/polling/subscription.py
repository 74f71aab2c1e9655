"""The subscription of one wait to the poller of its account."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Self, TypeVar

from airflow_wasabi_jobs.api.exceptions import AuthenticationError
from airflow_wasabi_jobs.polling.poll import Poll
from airflow_wasabi_jobs.polling.poll_group import MAX_LIST_POLLS
from airflow_wasabi_jobs.polling.registry import Registry, account_of

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.batches import Requests
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.models import JobReport, JobStatus
    from airflow_wasabi_jobs.api.settings import Settings
    from airflow_wasabi_jobs.polling.poller import Poller
    from airflow_wasabi_jobs.polling.registry import ReadSettings
    from airflow_wasabi_jobs.polling.snapshot import Snapshot

T = TypeVar("T")


class Subscription:
    """
    Polls jobs and sends requests through the poller of an account, for as long as the ``async with`` block lasts.

    :param conn_id: id of the connection. All waits on it share one lookup of the connection, and one more after a 401.
    :param read_settings: reads the connection.
    """

    def __init__(self, conn_id: str, read_settings: ReadSettings) -> None:
        self._registry = Registry.of_running_loop()
        self._connection = self._registry.get_connection(conn_id, read_settings)
        self._poller: Poller | None = None
        self._poll: Poll | None = None
        self._started_at = asyncio.get_running_loop().time()

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
        loop = asyncio.get_running_loop()
        settings = await self._connection.get_settings(since=self._started_at)
        is_first = self._poll is None
        poll = self._poll = self._poll or Poll(
            job_id=job_id,
            connection_name=self._connection.name,
            # A random start, so that waits that begin together do not request their statuses together.
            list_polls=random.randrange(MAX_LIST_POLLS // 2),  # noqa: S311 - jitter, not a secret
            result=loop.create_future(),
        )
        poll.interval, poll.due_at = interval, loop.time() + interval
        poll.report_unchanged_at = loop.time() + (report_unchanged_after if align else 0)
        poll.result = loop.create_future()
        while True:
            version = self._connection.version
            poller = await self._get_poller(settings)
            try:
                return await poller.poll(poll, align=align, first=is_first)
            except AuthenticationError:
                settings = await self._connection.refresh_settings(settings, version, sent_at=poll.due_at)
                if account_of(settings) == poller.account:
                    raise
            # The keys have changed: poll again, at once, and report whatever the status is.
            poll.result, poll.due_at, align = loop.create_future(), loop.time(), False
            poll.report_unchanged_at = poll.due_at

    async def send(self, request: Request[T]) -> T:
        """
        Send another request, within the rate limit of the account.

        :param request: the request.
        :raises WasabiApiError: if there is no result.
        """
        settings = await self._connection.get_settings(since=self._started_at)
        while True:
            version, sent_at = self._connection.version, asyncio.get_running_loop().time()
            poller = await self._get_poller(settings)
            try:
                return await poller.send(request, self._connection.name)
            except AuthenticationError:
                settings = await self._connection.refresh_settings(settings, version, sent_at)
                if account_of(settings) == poller.account:
                    raise

    async def send_all(self, requests: Requests[T]) -> T:
        """Send all requests of a generator, one after the other, and return its result."""
        request = next(requests)
        while True:
            response = await self.send(request)
            try:
                request = requests.send(response)
            except StopIteration as end:
                result: T = end.value
                return result

    async def get_snapshot(self, due_at: float) -> Snapshot:
        """
        Return what all watchers of the account share in one poll.

        :param due_at: when the poll is due, on the clock of the event loop.
        :raises WasabiApiError: if the connection cannot be used.
        """
        settings = await self._connection.get_settings(since=self._started_at)
        return (await self._get_poller(settings)).get_snapshot(due_at)

    async def read_connection_again(self, since: float) -> None:
        """Read the connection, unless another wait has done so since then, on the clock of the event loop."""
        await self._connection.read_again(since)

    async def _get_poller(self, settings: Settings) -> Poller:
        if self._poller is None or self._poller.account != account_of(settings):
            await self._release_poller()
            self._poller = self._registry.acquire_poller(account_of(settings))
        return self._poller

    async def _release_poller(self) -> None:
        poller, self._poller = self._poller, None
        if poller is not None:
            if self._poll is not None:
                poller.leave(self._poll)
            await self._registry.release_poller(poller)
