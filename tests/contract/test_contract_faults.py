"""Faults between client and server, and their outcome for both clients and for a wait in each mode."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
import trustme
from connections import ACCESS_KEY, SECRET_KEY
from loopback import (
    Loopback,
    Response,
    ServerConnection,
    chunked,
    cut,
    drip,
    gzipped,
    hang,
    refused_url,
    reset,
    response,
    status_response,
)
from wait_runner import run_wait

from airflow_wasabi_jobs.api import endpoints, exceptions
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.api.models import JobReport, JobStatus
from airflow_wasabi_jobs.api.settings import build_settings

BODY = b'{"Id": "12345", "Status": "in_progress", "ErrorCount": 0}'
REPORT = JobReport("12345", JobStatus.IN_PROGRESS)
OK_RESPONSE = response(200, BODY)
SHORT_TIMEOUT = 0.3  # no complete response arrives within it
SWITCHING_PROTOCOLS = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
CONTINUE, EARLY_HINTS = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


def redirect(status_code: int) -> Response:
    """Redirect to the same server under another host name."""

    def act(connection: ServerConnection) -> bytes:
        location = f"http://localhost:{connection.sock.getsockname()[1]}{connection.request.target}"
        return response(status_code, Location=location, Content_Length="" if status_code == 304 else "0")

    return act


class Fault(NamedTuple):
    """
    :param error: the expected error, or None if the response is valid.
    :param response: the response of the server, or None if no request reaches it.
    :param read_timeout: read timeout of the client.
    """

    error: type[exceptions.WasabiApiError] | None
    response: Response | None
    read_timeout: float = 10


FAULTS = {
    # Valid responses
    "chunked": Fault(None, chunked(BODY[:5], BODY[5:])),
    "gzip": Fault(None, gzipped(BODY)),
    "deflate": Fault(None, response(200, zlib.compress(BODY), Content_Encoding="deflate")),
    "chunked gzip": Fault(
        None, chunked(gzip.compress(BODY)).replace(b"Transfer", b"Content-Encoding: gzip\r\nTransfer", 1)
    ),
    "until the connection is closed": Fault(None, cut(response(200, BODY, Content_Length=""))),
    "HTTP/1.0": Fault(None, cut(OK_RESPONSE.replace(b"HTTP/1.1", b"HTTP/1.0"))),
    "closed despite keep-alive": Fault(None, cut(OK_RESPONSE)),
    "other content type": Fault(None, response(200, BODY, Content_Type="text/html")),
    "other charset": Fault(None, response(200, BODY, Content_Type="application/json; charset=utf-16")),
    "100 first": Fault(None, CONTINUE + OK_RESPONSE),
    "103 first": Fault(None, EARLY_HINTS + OK_RESPONSE),
    "102 first": Fault(None, b"HTTP/1.1 102 Processing\r\n\r\n" + OK_RESPONSE),
    "100 and 103 first": Fault(None, CONTINUE + EARLY_HINTS + EARLY_HINTS + OK_RESPONSE),
    # No response, or an incomplete response
    "refused": Fault(exceptions.ApiConnectionError, None),
    "temporary DNS failure": Fault(exceptions.ApiConnectionError, None),
    "closed": Fault(exceptions.ApiConnectionError, cut()),
    "reset": Fault(exceptions.ApiConnectionError, reset()),
    "closed before the body": Fault(exceptions.ApiConnectionError, cut(OK_RESPONSE[: -len(BODY)])),
    "reset before the body": Fault(exceptions.ApiConnectionError, reset(OK_RESPONSE[: -len(BODY)])),
    "closed in the body": Fault(exceptions.ApiConnectionError, cut(OK_RESPONSE[:-9])),
    "reset in the body": Fault(exceptions.ApiConnectionError, reset(OK_RESPONSE[:-9])),
    "closed between chunks": Fault(exceptions.ApiConnectionError, cut(chunked(BODY[:5], end=b""))),
    "closed in gzip": Fault(exceptions.ApiConnectionError, cut(gzipped(BODY)[:-9])),
    "101": Fault(exceptions.InvalidResponseError, cut(SWITCHING_PROTOCOLS + OK_RESPONSE)),
    "closed after a 103": Fault(exceptions.ApiConnectionError, cut(EARLY_HINTS)),
    "silent": Fault(exceptions.ApiTimeoutError, hang(), SHORT_TIMEOUT),
    "silent in the body": Fault(exceptions.ApiTimeoutError, hang(OK_RESPONSE[:-9]), SHORT_TIMEOUT),
    "silent after a 103": Fault(exceptions.ApiTimeoutError, hang(EARLY_HINTS), SHORT_TIMEOUT),
    "byte by byte": Fault(exceptions.ApiTimeoutError, drip(OK_RESPONSE), SHORT_TIMEOUT),
    # No such server
    "no such host": Fault(exceptions.HostNotFoundError, None),
    "untrusted certificate": Fault(exceptions.TlsError, None),
    # Invalid responses
    "truncated JSON": Fault(exceptions.InvalidResponseError, response(200, BODY[:-9])),
    "not JSON": Fault(exceptions.InvalidResponseError, response(200, "<html>Welcome to the hotel</html>")),
    "empty": Fault(exceptions.InvalidResponseError, response(200)),
    "10 MiB": Fault(exceptions.InvalidResponseError, response(200, 10 * 1024 * 1024 * b" " + BODY)),
    "declared as gzip": Fault(exceptions.InvalidResponseError, response(200, BODY, Content_Encoding="gzip")),
    "undeclared gzip": Fault(exceptions.InvalidResponseError, response(200, gzip.compress(BODY))),
    "UTF-16": Fault(exceptions.InvalidResponseError, response(200, BODY.decode().encode("utf-16"))),
    "not HTTP": Fault(exceptions.ApiConnectionError, cut(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")),
    "201": Fault(exceptions.InvalidResponseError, response(201, BODY)),
    "204": Fault(exceptions.InvalidResponseError, response(204, Content_Length="")),
    # Permanent error responses
    **{str(code): Fault(exceptions.RedirectError, redirect(code)) for code in (300, 301, 302, 303, 304, 307, 308)},
    **{str(code): Fault(exceptions.ApiStatusError, response(code)) for code in (402, 405, 407, 410, 418, 451)},
    "400": Fault(exceptions.BadRequestError, response(400)),
    "400 for throttling": Fault(exceptions.RateLimitError, response(400, '{"ErrorCode": "ThrottlingException"}')),
    "401": Fault(exceptions.AuthenticationError, response(401)),
    "403": Fault(exceptions.PermissionDeniedError, response(403)),
    "404": Fault(exceptions.NotFoundError, response(404)),
    # Transient error responses
    **{
        str(code): Fault(exceptions.ServerError, response(code, "<html>Bad Gateway</html>"))
        for code in (408, 425, 500, 501, 502, 503, 504, 520, 599)
    },
    "429": Fault(exceptions.RateLimitError, response(429)),
    **{
        f"429 with Retry-After {retry_after}": Fault(exceptions.RateLimitError, response(429, Retry_After=retry_after))
        for retry_after in ("0", "0.01", "-1", "1000000000", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1e999", "nan")
    },
    "503 with Retry-After 1000000000": Fault(exceptions.ServerError, response(503, Retry_After="1000000000")),
}
every_fault = pytest.mark.parametrize("name", FAULTS)
# requests takes these for the final response, which is a transient error.
INTERIM_RESPONSES = {"102 first", "103 first", "100 and 103 first", "silent after a 103"}
# aiohttp repeats a GET once if the connection is closed before the response, and what its parser rejects is requested
# again with requests.
REPEATED_IN_THE_TRIGGERER = {"closed", "reset", "closed after a 103", "not HTTP"}


class FaultyServer(NamedTuple):
    """
    A server with one fault.

    :param url: the base URL of the server.
    :param options: the connection's extra options.
    :param request_count: how many requests the server has received so far.
    """

    url: str
    options: dict[str, Any]
    request_count: Callable[[], int]


@pytest.fixture
def serve_fault(monkeypatch: pytest.MonkeyPatch, make_certificates: Any) -> Any:
    """Serve the responses ``before``, then the fault, then a completed job."""

    @contextmanager
    def make(name: str, *before: bytes) -> Iterator[FaultyServer]:
        fault = FAULTS[name]
        scripts = [*before, *([fault.response] if fault.response else []), status_response("completed")]
        tls, ca_file = make_certificates(at=len(before)) if name == "untrusted certificate" else (None, True)
        with ExitStack() as stack, Loopback(*scripts, tls=tls) as server:
            url = server.url
            if name == "refused":
                stack.enter_context(_refuse_connection(monkeypatch, server.port, at=len(before)))
            if name in _DNS_ERRORS:
                url = f"http://air.example.com:{server.port}"
                _fail_dns_lookup(monkeypatch, server.port, _DNS_ERRORS[name], at=len(before))
            options = {"retries": 0, "read_timeout": fault.read_timeout, "verify": ca_file, "allow_http": True}
            yield FaultyServer(url, options, lambda: len(server.requests))

    return make


_DNS_ERRORS = {"temporary DNS failure": socket.EAI_AGAIN, "no such host": socket.EAI_NONAME}


@contextmanager
def _refuse_connection(monkeypatch: pytest.MonkeyPatch, port: int, *, at: int) -> Iterator[None]:
    """Redirect the connection with this index to a port that refuses it."""
    connect, numbers = socket.socket.connect, itertools.count()
    with refused_url() as url:
        refused_address = ("127.0.0.1", int(url.rpartition(":")[2]))

        def connect_or_be_refused(sock: socket.socket, address: Any) -> None:
            connect(sock, refused_address if address[1] == port and next(numbers) == at else address)

        monkeypatch.setattr(socket.socket, "connect", connect_or_be_refused)
        yield


def _fail_dns_lookup(monkeypatch: pytest.MonkeyPatch, port: int, code: int, *, at: int) -> None:
    """Let the DNS lookup with this index fail."""
    numbers = itertools.count()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        if next(numbers) == at:
            raise socket.gaierror(code, "simulated DNS error")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def make_certificates(tmp_path: Any) -> Any:
    """Build a TLS context with an untrusted certificate on one connection, and return it with the CA bundle."""

    def make(*, at: int) -> tuple[ssl.SSLContext, str]:
        trusted, other_ca = trustme.CA(), trustme.CA()
        contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
        for ca, context in zip((trusted, other_ca), contexts, strict=True):
            ca.issue_cert("127.0.0.1").configure_cert(context)
        numbers = itertools.count()

        def choose_certificate(sock: Any, *_: Any) -> None:
            sock.context = contexts[next(numbers) == at]

        contexts[0].sni_callback = choose_certificate
        trusted.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        return contexts[0], str(tmp_path / "ca.pem")

    return make


def send_sync(settings: Any) -> JobReport:
    return JobsClient(settings).send(endpoints.get_job_status("12345"))


def send_async(settings: Any) -> JobReport:
    async def main() -> JobReport:
        async with AsyncJobsClient(settings) as client:
            return await client.send(endpoints.get_job_status("12345"))

    return asyncio.run(main())


@every_fault
@pytest.mark.parametrize("send", [send_sync, send_async], ids=["sync", "async"])
def test_request(serve_fault: Any, name: str, send: Any) -> None:
    fault = FAULTS[name]
    with serve_fault(name) as server:
        settings = build_settings(
            name="connection 'wasabi_default'",
            host=server.url,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            extra=json.dumps(server.options),
        )
        error = fault.error
        if send is send_sync and name in INTERIM_RESPONSES:
            error = exceptions.ApiConnectionError
        if send is send_async and name in REPEATED_IN_THE_TRIGGERER:
            assert send(settings).status == "completed"
            assert server.request_count() == 2
            return
        if error is None:
            assert send(settings) == REPORT
        else:
            with pytest.raises(exceptions.WasabiApiError) as caught:
                send(settings)
            assert type(caught.value) is error

        assert server.request_count() == (1 if fault.response else 0)


@every_fault
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_wait(serve_fault: Any, monkeypatch: pytest.MonkeyPatch, set_connection: Any, name: str, mode: str) -> None:
    monkeypatch.setattr("airflow_wasabi_jobs.polling.rate_limiter.MAX_PAUSE_SECONDS", 0.01)
    fault = FAULTS[name]
    # A deferrable sensor polls first on the worker. The connection is closed, so that the fault is on the next one.
    with serve_fault(name, response(200, BODY, Connection="close")) as server:
        set_connection(server.url, **server.options)
        if fault.error is None or fault.error.is_transient:
            xcom = run_wait(monkeypatch, mode, poke_interval=0.01, timeout=60)
            assert xcom == {"job_id": "12345", "status": "completed", "error_count": 0}
            poll_count = 3
        else:
            with pytest.raises(exceptions.WasabiApiError) as caught:
                run_wait(monkeypatch, mode, poke_interval=0.01, timeout=60)
            assert type(caught.value) is fault.error
            poll_count = 2

        expected_requests = poll_count if fault.response else poll_count - 1
        # On a slow machine a valid response may also time out and need another poll.
        assert server.request_count() == expected_requests or (
            fault.read_timeout == SHORT_TIMEOUT and server.request_count() > expected_requests
        )


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.error is exceptions.RateLimitError])
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_many_consecutive_429s(monkeypatch: pytest.MonkeyPatch, set_connection: Any, name: str, mode: str) -> None:
    monkeypatch.setattr("airflow_wasabi_jobs.polling.rate_limiter.MAX_PAUSE_SECONDS", 0.01)
    faults: Any = [FAULTS[name].response] * 20
    with Loopback(status_response("in_progress"), *faults, status_response("completed")) as server:
        set_connection(server.url, read_timeout=30)

        xcom = run_wait(monkeypatch, mode, poke_interval=0.01, timeout=60)

        assert xcom == {"job_id": "12345", "status": "completed", "error_count": 0}
        assert len(server.requests) == 22
