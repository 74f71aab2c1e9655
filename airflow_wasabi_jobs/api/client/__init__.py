"""
The two ways to carry a call: requests where a worker may wait for it, aiohttp where an event loop may not.

Both take the same calls, the same retry policy and the same limits, so a wait means the same in both.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
import msgspec
import requests
import tenacity
import urllib3.exceptions
import yarl

from airflow_wasabi_jobs.api import answers, calls, errors
from airflow_wasabi_jobs.api.client.bounds import BoundedAdapter, BoundedConnector, BoundedSession
from airflow_wasabi_jobs.api.client.environment import ca_bundle, proxy, ssl_context
from airflow_wasabi_jobs.api.client.failures import no_answer

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

_LONGEST_BODY = 4 * 1024 * 1024
_CHUNK = 64 * 1024


class JobsClient:
    """
    Carries calls with requests, over one pooled session. It blocks: it is for workers.

    :param settings: where, with which keys, how patiently.
    :raises InvalidSettings: if the CA bundle can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        ssl_context(settings)
        self._session = BoundedSession()
        # Nothing of the environment counts unseen: no .netrc in place of the keys, no other CA bundle.
        self._session.trust_env = False
        self._session.verify = ca_bundle(settings).path or False
        if url := proxy(settings):
            self._session.proxies = {"http": url, "https": url}
        self._session.mount("http://", BoundedAdapter())
        self._session.mount("https://", BoundedAdapter())

    def send(self, call: calls.Call[T]) -> T:
        """
        Take one look: send the call, a GET again if there is passing trouble, and return its result.

        It takes at most ``connect_timeout + 2 * read_timeout`` seconds, all tries and the waits between
        them included.

        :raises AirError: if no try brought the result; the last one's.
        """
        deadline = time.monotonic() + self.settings.look_timeout
        result: T = tenacity.Retrying(**retry_policy(self.settings, call))(self._try, call, deadline)
        return result

    def _try(self, call: calls.Call[T], deadline: float) -> T:
        try:
            with self._session.request(
                call.method,
                self.settings.base_url + call.path,
                data=call.body,
                headers=calls.headers(self.settings, call),
                timeout=_time_outs(self.settings, deadline - time.monotonic()),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = bytearray()
                for chunk in response.iter_content(_CHUNK):
                    body += chunk
                    _check_length(self.settings, call, body)
                answer = answers.Answer(response.status_code, response.headers, bytes(body))
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            UnicodeError,
        ) as cause:
            raise no_answer(self.settings, call, cause) from answers.clean(self.settings, call, cause)
        return answers.read(self.settings, call, answer)


class AsyncJobsClient:
    """
    Carries calls with aiohttp, over one pooled session. Nothing in it blocks: it is for triggers.

    Use it as an asynchronous context manager, which opens and closes the session::

        async with AsyncJobsClient(settings) as client:
            report = await client.send(calls.job_status("12345"))

    :param settings: where, with which keys, how patiently.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __aenter__(self) -> Self:
        # To read a CA bundle takes the time of many requests.
        context = await asyncio.to_thread(ssl_context, self._settings)
        clock = aiohttp.TraceConfig()
        clock.on_request_headers_sent.append(_answer_begins)
        self._proxy = proxy(self._settings)
        self._session = aiohttp.ClientSession(
            # The resolver that tells a host that does not exist from a name server that is busy.
            connector=BoundedConnector(ssl=context, resolver=aiohttp.ThreadedResolver()),
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[clock],
        )
        # aiohttp would send a request twice of its own accord, which is not ours to count or to bound.
        self._session._retry_connection = False  # noqa: SLF001 - there is no other way
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, call: calls.Call[T]) -> T:
        """
        Take one look: send the call, a GET again if there is passing trouble, and return its result.

        It takes at most ``connect_timeout + 2 * read_timeout`` seconds, all tries and the waits between
        them included.

        :raises AirError: if no try brought the result; the last one's.
        """
        deadline = time.monotonic() + self._settings.look_timeout
        return await tenacity.AsyncRetrying(**retry_policy(self._settings, call))(self.attempt, call, deadline)

    async def attempt(self, call: calls.Call[T], deadline: float, name: str | None = None) -> T:
        """
        Send the call once, and return its result.

        :param call: what to ask.
        :param deadline: when the look must be over, on the monotonic clock.
        :param name: what to call the settings in a message, if not by their own name.
        :raises AirError: if it did not bring the result.
        """
        settings = msgspec.structs.replace(self._settings, name=name) if name else self._settings
        connect, read = _time_outs(settings, deadline - time.monotonic())
        try:
            async with (
                asyncio.timeout(connect) as time_out,
                self._session.request(
                    call.method,
                    # Encoded as it is: aiohttp would take the encoding off some of an id's characters.
                    yarl.URL(settings.base_url + call.path, encoded=True),
                    data=call.body,
                    headers=calls.headers(settings, call),
                    allow_redirects=False,
                    proxy=self._proxy,
                    trace_request_ctx=(time_out, read),
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK):
                    body += chunk
                    _check_length(settings, call, body)
                answer = answers.Answer(response.status, response.headers, bytes(body))
        except (aiohttp.ClientError, OSError, UnicodeError) as cause:
            raise no_answer(settings, call, cause) from answers.clean(settings, call, cause)
        return answers.read(settings, call, answer)


async def _answer_begins(_session: aiohttp.ClientSession, ctx: SimpleNamespace, _params: Any) -> None:
    time_out, read = ctx.trace_request_ctx
    time_out.reschedule(asyncio.get_running_loop().time() + read)


def retry_policy(settings: Settings, call: calls.Call[Any]) -> dict[str, Any]:
    """Return how often and when a call is tried again within one look, as the arguments of tenacity's retrying."""
    # What changes something is never sent twice: after an answer that was lost, only who sent it can tell.
    tries = settings.options.retries + 1 if call.body is None else 1
    return {
        "retry": tenacity.retry_if_exception(lambda error: isinstance(error, errors.AirError) and error.is_passing),
        "wait": _pause,
        # No try begins that could not be ended within the look.
        "stop": tenacity.stop_after_attempt(tries) | tenacity.stop_before_delay(2 * settings.options.read_timeout),
        "reraise": True,
    }


_backoff = tenacity.wait_exponential(multiplier=0.2, max=5) + tenacity.wait_random(0, 0.2)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, errors.AirError) else None
    return max(asked or 0.0, _backoff(state))


def _time_outs(settings: Settings, left: float) -> tuple[float, float]:
    connect = settings.options.connect_timeout
    return connect, max(0.001, min(settings.options.read_timeout, left - connect))


def _check_length(settings: Settings, call: calls.Call[Any], body: bytearray) -> None:
    if len(body) > _LONGEST_BODY:
        raise errors.UnexpectedAnswer(
            answers.message(
                settings,
                call,
                f"the answer is longer than {_LONGEST_BODY} bytes",
                "Check that host is the address of an AiR Jobs API.",
            )
        )
