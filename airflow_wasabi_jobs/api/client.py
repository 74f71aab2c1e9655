"""
The two ways to carry a call: requests where a worker may wait for it, aiohttp where an event loop may not.

Both take the same calls, the same retry policy and the same limits, so a wait means the same in both.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import io
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, TypeVar

import aiohttp
import aiohttp.http_exceptions
import requests
import requests.adapters
import tenacity
import urllib3.connection
import urllib3.exceptions
import urllib3.util
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.settings import Settings, is_loopback

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
        _ssl_context(settings)
        self._session = requests.Session()
        # Nothing of the environment counts unseen: no .netrc in place of the keys, no other CA bundle.
        self._session.trust_env = False
        self._session.verify = _ca_bundle(settings)[0] or False
        if proxy := _proxy(settings):
            self._session.proxies = {"http": proxy, "https": proxy}
        self._session.mount("http://", _BoundedAdapter())
        self._session.mount("https://", _BoundedAdapter())

    def send(self, call: calls.Call[T]) -> T:
        """
        Take one look: send the call, again if there is passing trouble, and return its result.

        It takes at most ``connect_timeout + 2 * read_timeout`` seconds, all tries and the waits between
        them included.

        :raises AirError: if no try brought the result; the last one's.
        """
        deadline = time.monotonic() + self.settings.look_timeout
        result: T = tenacity.Retrying(**_policy(self.settings))(self._try, call, deadline)
        return result

    def _try(self, call: calls.Call[T], deadline: float) -> T:
        try:
            with self._session.get(
                self.settings.base_url + call.path,
                headers=calls.headers(self.settings),
                timeout=_time_outs(self.settings, deadline - time.monotonic()),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = bytearray()
                for chunk in response.iter_content(_CHUNK):
                    body += chunk
                    _check_length(self.settings, call, body)
                answer = calls.Answer(response.status_code, response.headers, bytes(body))
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            UnicodeError,
        ) as cause:
            raise _no_answer(self.settings, call, cause) from calls.clean(self.settings, cause)
        return calls.read(self.settings, call, answer)


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
        context = await asyncio.to_thread(_ssl_context, self._settings)
        clock = aiohttp.TraceConfig()
        clock.on_request_headers_sent.append(_answer_begins)
        self._proxy = _proxy(self._settings)
        self._session = aiohttp.ClientSession(
            # The resolver that tells a host that does not exist from a name server that is busy.
            connector=aiohttp.TCPConnector(ssl=context, resolver=aiohttp.ThreadedResolver()),
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[clock],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, call: calls.Call[T]) -> T:
        """
        Take one look: send the call, again if there is passing trouble, and return its result.

        It takes at most ``connect_timeout + 2 * read_timeout`` seconds, all tries and the waits between
        them included.

        :raises AirError: if no try brought the result; the last one's.
        """
        deadline = time.monotonic() + self._settings.look_timeout
        return await tenacity.AsyncRetrying(**_policy(self._settings))(self._try, call, deadline)

    async def _try(self, call: calls.Call[T], deadline: float) -> T:
        connect, read = _time_outs(self._settings, deadline - time.monotonic())
        try:
            async with (
                asyncio.timeout(connect) as time_out,
                self._session.get(
                    self._settings.base_url + call.path,
                    headers=calls.headers(self._settings),
                    allow_redirects=False,
                    proxy=self._proxy,
                    trace_request_ctx=(time_out, read),
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK):
                    body += chunk
                    _check_length(self._settings, call, body)
                answer = calls.Answer(response.status, response.headers, bytes(body))
        except (aiohttp.ClientError, OSError, UnicodeError) as cause:
            raise _no_answer(self._settings, call, cause) from calls.clean(self._settings, cause)
        return calls.read(self._settings, call, answer)


class _Answer(http.client.HTTPResponse):
    """An answer that must be here as a whole within the socket's time-out, not just each piece of it."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._clocked = _Clocked(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._clocked)

    def begin(self) -> None:
        super().begin()
        if self._clocked.ended:
            raise http.client.RemoteDisconnected("the answer ended within its headers")


class _Clocked(io.RawIOBase):
    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = time.monotonic() + (sock.gettimeout() or 0)
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        count = self._raw.readinto(buffer)
        self.ended = count == 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _HTTPConnection(urllib3.connection.HTTPConnection):
    response_class = _Answer


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    response_class = _Answer


class _BoundedAdapter(requests.adapters.HTTPAdapter):
    """Makes the read time-out of requests, which is for each piece that arrives, one for the whole answer."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _HTTPSConnection if pool.scheme == "https" else _HTTPConnection
        return pool


async def _answer_begins(_session: aiohttp.ClientSession, ctx: SimpleNamespace, _params: Any) -> None:
    time_out, read = ctx.trace_request_ctx
    time_out.reschedule(asyncio.get_running_loop().time() + read)


def _policy(settings: Settings) -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception(lambda error: isinstance(error, errors.AirError) and error.is_passing),
        "wait": _pause,
        # No try begins that could not be ended within the look.
        "stop": tenacity.stop_after_attempt(settings.options.retries + 1)
        | tenacity.stop_before_delay(2 * settings.options.read_timeout),
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
            calls.message(
                settings,
                call,
                f"the answer is longer than {_LONGEST_BODY} bytes",
                "Check that host is the address of an AiR Jobs API.",
            )
        )


def _proxy(settings: Settings) -> str | None:
    if settings.options.proxy:
        return settings.options.proxy
    if is_loopback(urllib3.util.parse_url(settings.base_url).host or ""):
        return None
    proxy = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
    if proxy and not proxy.startswith(("http://", "https://")):
        raise errors.InvalidSettings(
            f"The environment's proxy for {settings.name} can't be used: only http:// and https:// can be spoken to "
            "one. Name a proxy as 'proxy' in the connection's extra, or put the host into NO_PROXY."
        )
    return proxy or None


def _ca_bundle(settings: Settings) -> tuple[str | None, str]:
    """Return the path of the CA bundle to verify with, or None, and where that is set."""
    verify = settings.options.verify
    if verify is not True:
        return verify or None, "'verify' in the connection's extra"
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := os.environ.get(name):
            return bundle, f"the environment's {name}"
    return DEFAULT_CA_BUNDLE_PATH, "the package certifi"


def _ssl_context(settings: Settings) -> ssl.SSLContext | bool:
    bundle, named_in = _ca_bundle(settings)
    if bundle is None:
        return False
    try:
        return _read_bundle(bundle, Path(bundle).stat().st_mtime_ns)
    except OSError as cause:
        raise errors.InvalidSettings(
            f"The CA bundle {bundle!r} of {settings.name} can't be read ({cause.strerror or cause}). It is named in "
            f"{named_in}: put the path of a PEM file there that exists on this machine."
        ) from cause


@functools.lru_cache(maxsize=8)
def _read_bundle(bundle: str, _changed: int) -> ssl.SSLContext:
    context = urllib3.util.create_urllib3_context()
    if Path(bundle).is_dir():
        context.load_verify_locations(capath=bundle)
    else:
        context.load_verify_locations(cafile=bundle)
    return context


def _no_answer(settings: Settings, call: calls.Call[Any], cause: BaseException) -> errors.AirError:
    """Say what it means that no whole answer came, and whether the next try may fare better."""
    chain = list(_chain(cause))

    def found(*kinds: type[BaseException]) -> BaseException | None:
        return next((link for link in chain if isinstance(link, kinds)), None)

    def say(kind: type[errors.AirError], what: str, advice: str, status_code: int | None = None) -> errors.AirError:
        return kind(calls.message(settings, call, settings.scrub(what), advice), status_code=status_code)

    if status_code := _proxy_status(chain):
        return say(
            errors.PassingNoAnswer if status_code in {408, 425, 429} or status_code >= 500 else errors.Refusal,
            f"the proxy answered {status_code}",
            "Check 'proxy' in the connection's extra, with its user and password.",
            status_code,
        )
    if certificate := found(ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError):
        return say(
            errors.NoAnswer,
            f"the server's certificate does not verify ({certificate})",
            "Check the host. If its certificate comes from an authority of your own, put the path of the "
            "authority's PEM file into 'verify' in the connection's extra.",
        )
    if (tls := found(ssl.SSLError)) and not isinstance(tls, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return say(errors.NoAnswer, f"no TLS was agreed on ({tls})", "Check that host and port speak https.")
    if (lookup := found(socket.gaierror)) and lookup.args[0] in _NO_SUCH_HOST:
        return say(errors.NoAnswer, f"there is no such host ({lookup})", "Check the connection's host and proxy.")
    if found(*_NOT_HTTP) or (found(http.client.HTTPException) and not found(*_CUT)):
        return say(
            errors.UnexpectedAnswer,
            "what came back is not HTTP",
            "Check that host is the address of an AiR Jobs API.",
        )
    return say(errors.PassingNoAnswer, _what_passed(found), "This may pass.")


def _what_passed(found: Callable[..., BaseException | None]) -> str:
    if found(socket.gaierror):
        return "the name server has no answer at the moment"
    if found(TimeoutError, requests.Timeout, urllib3.exceptions.ReadTimeoutError):
        return "time was up before the whole answer was here"
    if found(requests.exceptions.ProxyError, aiohttp.ClientProxyConnectionError):
        return "the proxy can't be reached"
    if found(ConnectionRefusedError):
        return "the connection was refused"
    return "the connection was cut before the whole answer was here"


_NO_SUCH_HOST = {socket.EAI_NONAME, socket.EAI_NODATA}
_CUT = (http.client.RemoteDisconnected, http.client.IncompleteRead)
_NOT_HTTP = (
    urllib3.exceptions.InvalidChunkLength,
    urllib3.exceptions.DecodeError,
    aiohttp.ClientResponseError,
    aiohttp.http_exceptions.ContentEncodingError,
)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """All the errors in an error: the libraries put them into causes, contexts and arguments."""
    links, seen = [error], set[int]()
    while links:
        link = links.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            inner = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
            links += [each for each in inner if isinstance(each, BaseException)]


def _proxy_status(chain: list[BaseException]) -> int | None:
    for link in chain:
        if isinstance(link, aiohttp.ClientHttpProxyError):
            return link.status
        if told := re.match(r"Tunnel connection failed: (\d{3})", str(link)):
            return int(told[1])
    return None
