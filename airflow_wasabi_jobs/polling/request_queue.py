"""The requests of one account: bounded, in order of arrival, within the rate limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import tenacity

from airflow_wasabi_jobs.api import responses
from airflow_wasabi_jobs.api.client.retries import Deadline, retry_arguments
from airflow_wasabi_jobs.api.exceptions import AuthenticationError, WasabiApiError
from airflow_wasabi_jobs.polling.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.client import AsyncJobsClient
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

MAX_CONCURRENT_REQUESTS = 64


class RequestQueue:
    """
    Sends the requests of an account. Time in the queue does not count for the timeouts of a request.

    :param client: the client, which is open.
    :param account: the settings of the account.
    """

    def __init__(self, client: AsyncJobsClient, account: Settings) -> None:
        self.rate_limiter = RateLimiter()
        self._client = client
        self._account = account
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        self._are_keys_rejected = False
        self._keys_rejected_at = -math.inf
        self._rejected_keys = asyncio.Lock()

    async def send(self, request: Request[T], connection_name: str | None = None, *, since: float) -> T:
        """
        Send a request and return its result.

        :param request: the request.
        :param connection_name: how messages refer to the connection.
        :param since: when the request was queued, on the clock of the event loop. If the keys were rejected after that,
            the request is not sent.
        :raises WasabiApiError: if there is no result.
        """
        deadline = Deadline(self._account)

        async def send_once() -> T:
            queued_at = time.monotonic()
            async with self._slots, self._one_at_a_time_if_rejected():
                await self.rate_limiter.wait()
                deadline.postpone(time.monotonic() - queued_at)
                if self._keys_rejected_at >= since:
                    raise self._rejection(request, connection_name)
                try:
                    result = await self._client.send_once(request, deadline, connection_name)
                except WasabiApiError as error:
                    self._record_error(error)
                    raise
            self.rate_limiter.record_success()
            self._are_keys_rejected = False
            return result

        retrying = tenacity.AsyncRetrying(**retry_arguments(self._account, request, deadline))
        result: T = await retrying(send_once)
        return result

    @asynccontextmanager
    async def _one_at_a_time_if_rejected(self) -> AsyncIterator[None]:
        """After a rejection, let one request find out whether the keys are valid again before others are sent."""
        if self._are_keys_rejected:
            async with self._rejected_keys:
                if self._are_keys_rejected:
                    yield
                    return
        yield

    def _record_error(self, error: WasabiApiError) -> None:
        self.rate_limiter.record_error(error)
        if isinstance(error, AuthenticationError):
            self._are_keys_rejected = True
            self._keys_rejected_at = asyncio.get_running_loop().time()

    def _rejection(self, request: Request[Any], connection_name: str | None) -> AuthenticationError:
        settings = msgspec.structs.replace(self._account, name=connection_name or self._account.name)
        return AuthenticationError(
            responses.error_message(settings, request, "HTTP 401 Unauthorized", responses.CHECK_KEYS), status_code=401
        )
