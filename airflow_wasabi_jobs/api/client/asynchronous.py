"""The client for the triggerer: it never blocks the event loop."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
import msgspec
import tenacity
import yarl

from airflow_wasabi_jobs.api import endpoints, responses
from airflow_wasabi_jobs.api.client.connection_errors import connection_error
from airflow_wasabi_jobs.api.client.environment import create_ssl_context, with_environment_proxy
from airflow_wasabi_jobs.api.client.observer import observing
from airflow_wasabi_jobs.api.client.retries import CHUNK_BYTES, Deadline, check_body_size, retry_arguments
from airflow_wasabi_jobs.api.client.synchronous import JobsClient

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.client.observer import Observer
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

MAX_HEADER_BYTES = 64 * 1024


class AsyncJobsClient:
    """
    Sends requests with aiohttp, over one session.

    Use it as an asynchronous context manager, which opens and closes the session::

        async with AsyncJobsClient(settings) as client:
            report = await client.send(endpoints.get_job_status("12345"))

    :param settings: the base URL, the keys and the options.
    :param observe: receives the outcome of each request.
    """

    def __init__(self, settings: Settings, observe: Observer | None = None) -> None:
        self._settings = settings
        self._observe = observe

    async def __aenter__(self) -> Self:
        # Reading a CA bundle takes as long as many requests.
        context = await asyncio.to_thread(create_ssl_context, self._settings)
        self._settings = with_environment_proxy(self._settings)
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_start_read_timeout)
        self._session = aiohttp.ClientSession(
            # ThreadedResolver tells a host that does not exist from a name server that is busy.
            # No limit of connections here: time in its queue would count as time to connect.
            connector=aiohttp.TCPConnector(ssl=context, resolver=aiohttp.ThreadedResolver(), limit=0),
            # As tolerant as http.client, so that a large cookie has the same outcome in both clients.
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[tracing],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, request: endpoints.Request[T]) -> T:
        """
        Send a request, retry a ``GET`` after transient errors, and return its result.

        Takes at most ``connect_timeout + 2 * read_timeout`` seconds, including all retries and pauses.

        :raises WasabiApiError: the error of the last attempt.
        """
        deadline = Deadline(self._settings)
        retrying = tenacity.AsyncRetrying(**retry_arguments(self._settings, request, deadline))
        return await retrying(self.send_once, request, deadline)

    async def send_once(self, request: endpoints.Request[T], deadline: Deadline, name: str | None = None) -> T:
        """Send a request once, and return its result. Messages refer to the settings by their name, or by another."""
        with observing(self._observe):
            return await self._send_once(request, deadline, name)

    async def _send_once(self, request: endpoints.Request[T], deadline: Deadline, name: str | None) -> T:
        settings = msgspec.structs.replace(self._settings, name=name) if name else self._settings
        connect_timeout = settings.options.connect_timeout
        read_timeout = max(0.001, min(settings.options.read_timeout, deadline.seconds_to_read()))
        try:
            async with (
                asyncio.timeout(connect_timeout) as timeout,
                self._session.request(
                    request.method,
                    # Marked as encoded, because aiohttp would decode some characters of an id.
                    yarl.URL(settings.base_url + request.path, encoded=True),
                    data=request.body,
                    headers=endpoints.request_headers(settings, request),
                    allow_redirects=False,
                    proxy=settings.options.proxy,
                    trace_request_ctx=(timeout, read_timeout),
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    body += chunk
                    check_body_size(settings, request, body)
                parsed = responses.Response(response.status, response.headers, bytes(body))
        except (aiohttp.ClientError, OSError, UnicodeError) as cause:
            if request.method == "GET" and _is_rejected_by_parser(cause):
                return await asyncio.to_thread(_send_with_requests, settings, request, deadline)
            raise connection_error(settings, request, cause) from responses.redact_cause(settings, request, cause)
        return responses.parse_response(settings, request, parsed)


def _is_rejected_by_parser(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientResponseError) and not isinstance(error, aiohttp.ClientHttpProxyError)


def _send_with_requests(settings: Settings, request: endpoints.Request[T], deadline: Deadline) -> T:
    """Send a request again, because http.client accepts headers that aiohttp rejects: a wait ends the same in both."""
    client = JobsClient(settings)
    try:
        return client.send_once(request, deadline)
    finally:
        client.close()


async def _start_read_timeout(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
    timeout, read_timeout = context.trace_request_ctx
    timeout.reschedule(asyncio.get_running_loop().time() + read_timeout)
