"""HTTP behaviour of both clients: redirects, incomplete responses, timeouts, retries, DNS, TLS and proxies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import os
import socket
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from loopback import (
    Loopback,
    chunked,
    cut,
    delayed,
    drip,
    gzipped,
    hang,
    json_response,
    refused_url,
    reset,
    response,
    status_response,
    tunnel,
)

from airflow_wasabi_jobs import __version__
from airflow_wasabi_jobs.api import endpoints, exceptions
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient, retries
from airflow_wasabi_jobs.api.models import JobReport, JobStatus

STATUS = endpoints.get_job_status("12345")
COMPLETED = JobReport(job_id="12345", status=JobStatus.COMPLETED)
COMPLETED_RESPONSE = status_response("completed")
BODY_START = COMPLETED_RESPONSE.index(b"{")
BODY = COMPLETED_RESPONSE[BODY_START:]
OTHER_HOST = "https://air.example.com"
TOO_LONG = 5 * 1024 * 1024
BOMB = gzipped(20 * TOO_LONG * b" ")


@pytest.fixture
def no_backoff(monkeypatch):
    """Retry without a delay."""
    monkeypatch.setattr(retries, "_backoff", lambda _: 0)


@contextlib.contextmanager
def duration(at_least=0.0, at_most=10.0):
    # Far less than an unbounded request takes, and more than a slow machine needs.
    start = time.monotonic()
    yield
    assert at_least <= time.monotonic() - start < at_most


# Requests


def test_request_line_and_headers(send_to, keys):
    with Loopback(COMPLETED_RESPONSE) as server:
        assert send_to(server) == COMPLETED

    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("GET", "/jobs/12345/status", b"")
    assert request.headers["Host"] == f"127.0.0.1:{server.port}"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["User-Agent"] == f"airflow-wasabi-jobs/{__version__}"
    assert request.headers["x-amz-access-key"] == keys[0]
    assert request.headers["x-amz-secret-key"] == keys[1]


@pytest.mark.parametrize("api_request", [STATUS, endpoints.list_jobs()])
def test_keys_are_sent_in_two_headers_only(send_to, keys, api_request):
    with Loopback(json_response({"Status": "submitted", "Records": []})) as server:
        send_to(server, api_request)

    for key in keys:
        assert server.requests[0].raw.count(key.encode()) == 1
    assert "Authorization" not in server.requests[0].headers


def test_netrc_is_ignored(send_to, monkeypatch, tmp_path):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login netrc password netrc\ndefault login netrc password netrc\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Loopback(COMPLETED_RESPONSE) as server:
        send_to(server)

    assert "Authorization" not in server.requests[0].headers


def test_requests_of_a_client_share_a_connection(send, settings):
    with Loopback(COMPLETED_RESPONSE) as server:
        send(settings(server), STATUS, STATUS, STATUS)

    assert [request.connection_number for request in server.requests] == [0, 0, 0]


def test_server_may_close_the_connection_after_each_response(send, settings):
    with Loopback(response(200, BODY, Connection="close")) as server:
        assert send(settings(server), STATUS, STATUS) == COMPLETED

    assert [request.connection_number for request in server.requests] == [0, 1]


@pytest.mark.parametrize(
    "script",
    [
        chunked(BODY[:5], BODY[5:]),
        cut(response(200, BODY, Content_Length="")),
        gzipped(BODY),
        drip(COMPLETED_RESPONSE, start=BODY_START, every=0.001),
        response(200, b" " * 1024 * 1024 + BODY),
    ],
    ids=["chunked", "until connection close", "gzip", "byte by byte", "1 MiB"],
)
def test_transfer_encodings(send_to, script):
    with Loopback(script) as server:
        assert send_to(server) == COMPLETED


def test_host_name_is_idna_encoded(send_to, monkeypatch):
    def resolve(*_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))]

    with Loopback(COMPLETED_RESPONSE) as server:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert send_to(f"http://bücher.example.com:{server.port}", allow_http=True) == COMPLETED

    assert server.requests[0].headers["Host"] == f"xn--bcher-kva.example.com:{server.port}"


# Redirects


@pytest.mark.parametrize("status_code", [300, 301, 302, 303, 304, 307, 308])
def test_redirect_is_not_followed(expect_error, status_code):
    with (
        Loopback(COMPLETED_RESPONSE) as other_server,
        Loopback(response(status_code, Location=f"{other_server.url}/jobs/12345/status")) as server,
    ):
        error = expect_error(exceptions.RedirectError, server, retries=2)

    assert error.status_code == status_code
    assert not error.is_transient
    assert len(server.requests) == 1
    assert other_server.connections == 0


@pytest.mark.parametrize(
    "location", [None, "", "/jobs", "//", "http://[", "http://x:port/", "http://x/\xff", "mailto:x"]
)
def test_redirect_with_any_location_is_a_redirect_error(expect_error, location):
    with Loopback(response(302, **({"Location": location} if location else {}))) as server:
        assert expect_error(exceptions.RedirectError, server).status_code == 302


# Response size


@pytest.mark.parametrize(
    "script",
    [
        response(200, TOO_LONG * b" "),
        chunked(TOO_LONG * b" "),
        BOMB,
        BOMB.replace(b"200 OK", b"500 Not OK"),
    ],
    ids=["content length", "chunked", "gzip", "gzip, status 500"],
)
def test_response_that_is_too_long_is_a_permanent_error(expect_error, script):
    with Loopback(script) as server:
        error = expect_error(exceptions.InvalidResponseError, server, retries=2)

    assert "larger than" in str(error)
    assert not error.is_transient
    assert len(server.requests) == 1


@pytest.mark.parametrize("status_code", [200, 302, 404, 500])
def test_endless_response_is_read_up_to_the_size_limit_only(send_to, status_code):
    sent = 0

    def send_endlessly(connection):
        nonlocal sent
        connection.send(response(status_code, Content_Length="", Location="/"))
        while sent < 20 * TOO_LONG:
            connection.send(64 * 1024 * b" ")
            sent += 64 * 1024

    with Loopback(send_endlessly) as server, pytest.raises(exceptions.InvalidResponseError):
        send_to(server)
    assert sent < 10 * TOO_LONG


# Incomplete responses

INCOMPLETE_RESPONSES = {
    "closed": cut(),
    "reset": reset(),
    "closed in the status line": cut(COMPLETED_RESPONSE[:5]),
    "closed in the headers": cut(COMPLETED_RESPONSE[: BODY_START - 6]),
    "closed before the empty line": cut(COMPLETED_RESPONSE[: BODY_START - 2]),
    "reset in the headers": reset(COMPLETED_RESPONSE[: BODY_START - 6]),
    "closed before the body": cut(COMPLETED_RESPONSE[:BODY_START]),
    "closed in the body": cut(COMPLETED_RESPONSE[:-1]),
    "reset in the body": reset(COMPLETED_RESPONSE[:-1]),
    "closed before a chunk": cut(chunked(BODY, end=b"")),
    "closed in the length of a chunk": cut(chunked(BODY, end=b"1")),
    "closed in a chunk": cut(chunked(BODY, BODY)[:-20]),
    "reset in a chunk": reset(chunked(BODY, BODY)[:-20]),
    "404 closed in the body": cut(response(404, "No such job")[:-3]),
}


@pytest.mark.parametrize("script", INCOMPLETE_RESPONSES.values(), ids=INCOMPLETE_RESPONSES)
def test_incomplete_response_is_a_transient_error(expect_error, is_async, script):
    with Loopback(script) as server:
        error = expect_error(exceptions.ApiConnectionError, server)

    assert error.is_transient
    assert "Connection closed before the response was complete" in str(error)
    assert error.status_code is None
    # aiohttp itself repeats a GET once if the connection was closed before the response.
    assert len(server.requests) in ({1, 2} if is_async else {1})


@pytest.mark.parametrize("script", INCOMPLETE_RESPONSES.values(), ids=INCOMPLETE_RESPONSES)
def test_incomplete_response_is_retried(send_to, no_backoff, script):
    with Loopback(script, COMPLETED_RESPONSE) as server:
        assert send_to(server, retries=1) == COMPLETED

    assert len(server.requests) == 2


def test_connection_refused_is_a_transient_error(expect_error):
    with refused_url() as url:
        error = expect_error(exceptions.ApiConnectionError, url)

    assert "Connection refused" in str(error)


@pytest.mark.parametrize(
    "script",
    [
        cut(b"Hello, who is there?\r\n\r\n"),
        hang(b"SSH-2.0-OpenSSH_9.6\r\n"),
        cut(b"HTTP/1.1 abc OK\r\n\r\n"),
    ],
    ids=["text", "SSH", "invalid status"],
)
def test_response_that_is_not_http_is_a_transient_error(expect_error, script):
    with Loopback(script) as server:
        error = expect_error(exceptions.ApiConnectionError, server)

    assert error.is_transient
    assert "is not valid HTTP. Check that the host is the base URL" in str(error)


def test_truncated_gzip_body_is_an_invalid_response(expect_error):
    with Loopback(response(200, gzipped(BODY).partition(b"\r\n\r\n")[2][:-12], Content_Encoding="gzip")) as server:
        expect_error(exceptions.InvalidResponseError, server)


@pytest.mark.parametrize(
    "script",
    [
        cut(b"HTTP/1.1 200 OK\r\nX-Long: " + 100_000 * b"x" + b"\r\n\r\n{}"),
        cut(chunked(BODY, end=b"zz\r\n")),
    ],
    ids=["header too long", "invalid chunk"],
)
def test_malformed_http_is_a_transient_error(send_to, script):
    with Loopback(script) as server, pytest.raises(exceptions.ApiConnectionError) as caught:
        send_to(server)

    assert caught.value.is_transient


@pytest.mark.parametrize(
    "script",
    [
        response(503, Set_Cookie=9000 * "a"),
        response(503, X_Odd="a\x01b"),
        # Closed, because a parser that skips the rest of the headers reads until then.
        cut(b"HTTP/1.1 503 Busy\r\nCache Control: no\r\nContent-Length: 0\r\n\r\n"),
        b"HTTP/1.1 429 Busy\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        cut(b"HTTP/1.1 503 Busy\r\ngarbage\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["large cookie", "control character", "space in a header name", "two lengths", "line without a colon"],
)
def test_odd_header_of_a_transient_error_keeps_it_transient(send_to, script):
    with Loopback(script) as server, pytest.raises(exceptions.WasabiApiError) as caught:
        send_to(server)

    assert caught.value.is_transient


@pytest.mark.parametrize("header", [b"Cache Control: no", b"garbage", b"Content-Length: %d" % len(BODY)])
@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
def test_odd_header_has_the_same_outcome_in_both_clients(send_to, header, status):
    script = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n\r\n%s" % (status, len(BODY), header, BODY)
    with Loopback(script) as server:
        if status.startswith(b"200"):
            assert send_to(server) == COMPLETED
        else:
            with pytest.raises(exceptions.NotFoundError):
                send_to(server)


def test_large_header_of_a_valid_response(send_to):
    with Loopback(response(200, BODY, Set_Cookie=9000 * "a")) as server:
        assert send_to(server) == COMPLETED


def test_body_that_cannot_be_decompressed_is_a_permanent_error(expect_error):
    with Loopback(response(200, b"not gzipped", Content_Encoding="gzip")) as server:
        error = expect_error(exceptions.InvalidResponseError, server, retries=2)

    assert "cannot be decompressed" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status_code", [102, 103])
def test_interim_response_is_skipped_in_the_triggerer_and_transient_in_workers(
    send_to, settings, is_async, status_code
):
    interim = f"HTTP/1.1 {status_code} Interim\r\n\r\n".encode()
    with Loopback(interim + COMPLETED_RESPONSE, COMPLETED_RESPONSE) as server:
        if is_async:
            assert send_to(server) == COMPLETED
        else:
            with pytest.raises(exceptions.ApiConnectionError, match=f"HTTP {status_code} ") as caught:
                send_to(server)
            assert caught.value.is_transient


def test_final_response_after_an_interim_one_is_not_read_as_that_of_the_next_request(settings):
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    with Loopback(hints + status_response("failed"), COMPLETED_RESPONSE) as server:
        client = JobsClient(settings(server))
        with pytest.raises(exceptions.ApiConnectionError):
            client.send(STATUS)
        assert client.send(STATUS) == COMPLETED

    assert [request.connection_number for request in server.requests] == [0, 1]


# Timeouts


def flood(connection):
    connection.send(chunked(end=b""))
    while not connection.closing.is_set():
        connection.send(b"1\r\n \r\n")


@pytest.mark.parametrize(
    "script",
    [
        hang(),
        hang(COMPLETED_RESPONSE[: BODY_START - 6]),
        hang(COMPLETED_RESPONSE[:-1]),
        drip(COMPLETED_RESPONSE, start=BODY_START),
        drip(chunked(*(bytes([byte]) for byte in BODY)), start=BODY_START),
        drip(gzipped(BODY), start=BODY_START),
        flood,
    ],
    ids=[
        "no response",
        "silent in the headers",
        "silent in the body",
        "slow body",
        "slow chunks",
        "slow gzip",
        "endless chunks",
    ],
)
def test_read_timeout_covers_the_complete_response(expect_error, script):
    with Loopback(script) as server, duration(at_least=0.15):
        error = expect_error(exceptions.ApiTimeoutError, server, read_timeout=0.2)

    assert error.is_transient
    assert "Request timed out" in str(error)
    assert len(server.requests) == 1


def test_read_timeout_covers_slow_headers_in_the_triggerer(settings):
    async def main():
        async with AsyncJobsClient(settings(server, read_timeout=0.2)) as client:
            await client.send(STATUS)

    with (
        Loopback(drip(COMPLETED_RESPONSE)) as server,
        duration(at_least=0.15),
        pytest.raises(exceptions.ApiTimeoutError),
    ):
        run(main())


def test_connect_timeout_does_not_shorten_the_read_timeout(send_to):
    with Loopback(delayed(COMPLETED_RESPONSE, after=0.3)) as server:
        assert send_to(server, connect_timeout=0.15, read_timeout=5) == COMPLETED


@pytest.fixture
def unresponsive_port():
    """A port whose server does not accept connections: its backlog is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(10):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.2)
            try:
                sock.connect(server.getsockname())
            except TimeoutError:
                break
        else:
            pytest.skip("this system accepts connections beyond the backlog")
        yield server.getsockname()[1]


def test_connect_timeout(expect_error, unresponsive_port):
    with duration(at_least=0.15):
        error = expect_error(exceptions.ApiTimeoutError, f"http://127.0.0.1:{unresponsive_port}", connect_timeout=0.2)

    assert "Request timed out" in str(error)


def test_connect_timeout_covers_all_addresses_of_a_host_in_the_triggerer(settings, unresponsive_port, monkeypatch):
    async def main():
        url = f"{OTHER_HOST}:{unresponsive_port}"
        async with AsyncJobsClient(settings(url, connect_timeout=0.2, read_timeout=0.2)) as client:
            await client.send(STATUS)

    addresses = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", unresponsive_port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: 100 * addresses)
    with duration(at_least=0.15), pytest.raises(exceptions.ApiTimeoutError):
        run(main())


def test_unsupported_address_is_skipped(send_to, monkeypatch):
    unknown = (socket.AF_INET, socket.SOCK_STREAM, 9999, "", ("127.0.0.1", 1))
    with Loopback(status_response("completed")) as server:
        known = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [unknown, known])
        assert send_to(f"http://air.example.com:{server.port}", allow_http=True).status == "completed"


def test_connect_timeout_covers_the_tls_handshake(expect_error):
    with Loopback(hang(), respond_on_connect=True) as server, duration(at_least=0.15):
        expect_error(exceptions.ApiTimeoutError, f"https://127.0.0.1:{server.port}", connect_timeout=0.2)


def test_connect_timeout_covers_the_response_of_the_proxy(expect_error):
    with Loopback(hang()) as proxy, duration(at_least=0.15):
        expect_error(exceptions.ApiTimeoutError, OTHER_HOST, proxy=proxy.url, connect_timeout=0.2)


def test_connect_timeout_covers_a_slow_proxy_in_the_triggerer(settings):
    async def main():
        async with AsyncJobsClient(settings(OTHER_HOST, proxy=proxy.url, connect_timeout=0.2)) as client:
            await client.send(STATUS)

    slow_response = drip(response(200, X_More=600 * "x"), every=0.02)
    with Loopback(slow_response) as proxy, duration(at_least=0.15), pytest.raises(exceptions.ApiTimeoutError):
        run(main())


def test_connect_timeout_covers_proxy_and_tls_handshake(expect_error, is_async):
    def connect_slowly(connection):
        if not connection.closing.wait(1.8):
            connection.send(response(200, Content_Length=""))
            connection.closing.wait()

    # In requests the timeout is for each of the two, in aiohttp for both together.
    with Loopback(connect_slowly) as proxy, duration(at_least=1.9, at_most=3.7 if is_async else 6):
        expect_error(exceptions.ApiTimeoutError, OTHER_HOST, proxy=proxy.url, connect_timeout=2, read_timeout=0.1)


@pytest.mark.parametrize(
    "script",
    [response(407), response(403), response(502, "<html>"), cut(b"rubbish\r\n\r\n"), reset()],
    ids=["407", "403", "502", "rubbish", "reset"],
)
@pytest.mark.parametrize("password", ["p4ss-of-the-proxy", "p4ss%2Fof%40the-proxy"])
def test_password_of_the_environment_proxy_is_redacted(send_to, everything_shown, monkeypatch, script, password):
    with Loopback(script) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{password}@127.0.0.1:{proxy.port}")
        with pytest.raises(exceptions.WasabiApiError) as caught:
            send_to(OTHER_HOST)

    assert "p4ss" not in everything_shown(caught.value)


# Retries

UNAVAILABLE = response(503)
RETRIED = {
    "503": UNAVAILABLE,
    "429": response(429),
    "408": response(408),
    "502 of a proxy": response(502, "<html>"),
    "reset": reset(),
    "truncated": cut(COMPLETED_RESPONSE[:-1]),
}
NOT_RETRIED = {
    "204": response(204, Content_Length=""),
    "400": response(400),
    "401": response(401),
    "403": response(403),
    "404": response(404),
    "407": response(407),
    "not JSON": response(200, "<html>"),
    "unknown job status": status_response("unheard-of"),
}


@pytest.mark.parametrize("retries", [0, 1, 2, 10])
def test_retries_come_after_the_first_try(expect_error, no_backoff, retries):
    with Loopback(UNAVAILABLE) as server:
        expect_error(exceptions.ServerError, server, retries=retries)

    assert len(server.requests) == 1 + retries


@pytest.mark.parametrize("script", RETRIED.values(), ids=RETRIED)
def test_transient_error_is_retried(send_to, is_async, no_backoff, script):
    with Loopback(script) as server, pytest.raises(exceptions.WasabiApiError) as caught:
        send_to(server, retries=1)

    assert caught.value.is_transient
    # aiohttp itself repeats each GET once if the connection was closed before the response.
    assert len(server.requests) in ({2, 4} if is_async else {2})


@pytest.mark.parametrize("script", NOT_RETRIED.values(), ids=NOT_RETRIED)
def test_permanent_error_is_not_retried(send_to, script):
    with Loopback(script, COMPLETED_RESPONSE) as server, pytest.raises(exceptions.WasabiApiError) as caught:
        send_to(server, retries=3)

    assert not caught.value.is_transient
    assert len(server.requests) == 1


def test_last_error_is_raised(expect_error, no_backoff):
    with Loopback(UNAVAILABLE, response(429), response(404)) as server:
        expect_error(exceptions.NotFoundError, server, retries=3)


def test_reset_of_a_reused_connection_is_an_error(send, settings, is_async):
    with Loopback(COMPLETED_RESPONSE, reset()) as server, pytest.raises(exceptions.ApiConnectionError):
        send(settings(server), STATUS, STATUS)

    assert len(server.requests) == (3 if is_async else 2)


def test_retry_after_delays_the_retry(send_to):
    with Loopback(response(503, Retry_After="1"), COMPLETED_RESPONSE) as server, duration(at_least=1):
        assert send_to(server, retries=1) == COMPLETED


@pytest.mark.parametrize("retry_after", ["1", "3600", "1e999"])
def test_retry_after_beyond_the_poll_timeout_ends_the_poll(expect_error, retry_after):
    with Loopback(response(429, Retry_After=retry_after), COMPLETED_RESPONSE) as server, duration():
        error = expect_error(exceptions.RateLimitError, server, retries=5, read_timeout=0.5)

    assert error.is_transient
    assert error.retry_after == min(float(retry_after), 1e9)
    assert len(server.requests) == 1


def test_retries_back_off(expect_error):
    with Loopback(UNAVAILABLE) as server, duration(at_least=0.2):
        expect_error(exceptions.ServerError, server, retries=1)


def test_total_timeout_covers_all_retries(send_to, is_async):
    with (
        Loopback(delayed(UNAVAILABLE, after=1.5), hang()) as server,
        # In workers, half of the time that is left is kept for the body.
        duration(at_least=3.6 if is_async else 2.6, at_most=4.6),
        pytest.raises(exceptions.ApiConnectionError),
    ):
        send_to(server, retries=10, connect_timeout=0.1, read_timeout=2)

    assert len(server.requests) >= 2


def test_poll_timeout_covers_refused_connections(expect_error):
    with refused_url() as url, duration():
        expect_error(exceptions.ApiConnectionError, url, retries=10, connect_timeout=0.1, read_timeout=0.2)


# DNS


def test_unknown_host_is_a_permanent_error(expect_error, monkeypatch):
    def host_not_found(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", host_not_found)
    error = expect_error(exceptions.HostNotFoundError, OTHER_HOST, retries=2)
    assert not error.is_transient
    assert "Host not found" in str(error)


def test_temporary_dns_failure_is_a_transient_error(send_to, monkeypatch):
    lookups = []

    def fail_once(*_, **__):
        lookups.append(1)
        if len(lookups) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))]

    with Loopback(COMPLETED_RESPONSE) as server:
        monkeypatch.setattr(socket, "getaddrinfo", fail_once)
        url = f"http://air.example.com:{server.port}"
        with pytest.raises(exceptions.ApiConnectionError, match="name server did not respond"):
            send_to(url, allow_http=True)
        assert send_to(url, allow_http=True) == COMPLETED


# TLS


def test_certificate_is_verified_with_the_ca_bundle_of_the_settings(send_to, tls, ca_file):
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server:
        assert send_to(server, verify=ca_file) == COMPLETED


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_verify_false_disables_certificate_verification(send_to, tls):
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server:
        assert send_to(server, verify=False) == COMPLETED


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificate_is_verified_with_the_ca_bundle_of_the_environment(send_to, tls, ca_file, monkeypatch, variable):
    monkeypatch.setenv(variable, ca_file)
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server:
        assert send_to(server) == COMPLETED


def test_ca_bundle_of_the_settings_takes_precedence_over_the_environment(send_to, tls, ca_file, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server:
        assert send_to(server, verify=ca_file) == COMPLETED


@pytest.mark.parametrize("defect", ["unknown CA", "other host name", "expired"])
def test_untrusted_certificate_is_a_permanent_error(expect_error, ca, server_tls, ca_file, defect):
    context = {
        "unknown CA": lambda: server_tls(trustme.CA()),
        "other host name": lambda: server_tls(ca, "other.example.com"),
        "expired": lambda: server_tls(ca, not_after=datetime.now(UTC) - timedelta(days=1)),
    }[defect]()
    with Loopback(COMPLETED_RESPONSE, tls=context) as server:
        error = expect_error(exceptions.TlsError, server, verify=ca_file, retries=2)

    assert "is not trusted" in str(error)
    assert "'verify' in the extra" in str(error)
    assert not error.is_transient
    assert server.requests == []
    assert server.connections == 1


def test_public_cas_are_the_default(expect_error, tls):
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server:
        assert "is not trusted" in str(expect_error(exceptions.TlsError, server))


@pytest.mark.parametrize(
    "content", [None, "", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
@pytest.mark.parametrize("named_in", ["settings", "environment"])
def test_unreadable_ca_bundle_is_a_config_error(expect_error, tmp_path, monkeypatch, content, named_in):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    if named_in == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    verify = str(bundle) if named_in == "settings" else True
    with refused_url() as url:
        error = expect_error(exceptions.ConnectionConfigError, url.replace("http", "https"), verify=verify)

    assert str(bundle) in str(error)
    assert {"settings": "'verify'", "environment": "REQUESTS_CA_BUNDLE"}[named_in] in str(error)
    assert "connection 'wasabi_default'" in str(error)


def test_verify_accepts_a_directory(expect_error, tls, tmp_path):
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server:
        assert "is not trusted" in str(expect_error(exceptions.TlsError, server, verify=str(tmp_path)))


def test_changed_ca_bundle_is_reloaded(send_to, tls, ca_file, tmp_path):
    bundle = tmp_path / "bundle.pem"
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server:
        trustme.CA().cert_pem.write_to_path(str(bundle))
        with pytest.raises(exceptions.TlsError, match="is not trusted"):
            send_to(server, verify=str(bundle))

        before = bundle.stat().st_mtime
        bundle.write_bytes(Path(ca_file).read_bytes())
        os.utime(bundle, (before + 1, before + 1))
        assert send_to(server, verify=str(bundle)) == COMPLETED


def test_server_without_tls_is_a_permanent_error(expect_error):
    with Loopback(COMPLETED_RESPONSE) as server:
        error = expect_error(exceptions.TlsError, f"https://127.0.0.1:{server.port}", retries=2)

    assert "TLS handshake failed" in str(error)
    assert not error.is_transient
    assert server.connections == 1


def test_plain_http_to_a_tls_server_is_an_error(send_to, tls):
    with Loopback(COMPLETED_RESPONSE, tls=tls) as server, pytest.raises(exceptions.WasabiApiError):
        send_to(f"http://127.0.0.1:{server.port}", read_timeout=0.5)
    assert server.requests == []


@pytest.mark.parametrize("script", [cut(), reset()])
def test_connection_lost_during_the_tls_handshake_is_a_transient_error(expect_error, script):
    with Loopback(script, respond_on_connect=True) as server:
        expect_error(exceptions.ApiConnectionError, f"https://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    "script",
    [
        cut(COMPLETED_RESPONSE[:-1]),
        cut(COMPLETED_RESPONSE[: BODY_START - 6]),
        reset(COMPLETED_RESPONSE[:-1]),
        hang(COMPLETED_RESPONSE[:-1]),
    ],
)
def test_incomplete_response_through_tls_is_a_transient_error(send_to, tls, ca_file, script):
    with Loopback(script, tls=tls) as server, duration(), pytest.raises(exceptions.ApiConnectionError) as caught:
        send_to(server, verify=ca_file, read_timeout=0.2)

    assert caught.value.is_transient


def tls_alert(level, description):
    def act(connection):
        connection.sock.recv(4096)
        connection.send(bytes([0x15, 3, 3, 0, 2, level, description]))

    return act


@pytest.mark.parametrize(
    ("script", "is_transient"),
    [
        (tls_alert(2, 80), True),
        (tls_alert(2, 40), False),
        (tls_alert(2, 112), False),
        (tls_alert(1, 0), True),
        (cut(), True),
        (reset(), True),
    ],
    ids=["internal_error", "handshake_failure", "unrecognized_name", "close_notify", "closed", "reset"],
)
def test_tls_alert_has_the_same_outcome_in_both_clients(send_to, script, is_transient):
    with Loopback(script, respond_on_connect=True) as server, pytest.raises(exceptions.ApiConnectionError) as caught:
        send_to(f"https://127.0.0.1:{server.port}")

    assert caught.value.is_transient is is_transient
    assert isinstance(caught.value, exceptions.TlsError) is not is_transient


# Proxies


def test_http_request_through_a_proxy(send_to):
    with Loopback(COMPLETED_RESPONSE) as proxy:
        assert send_to("http://air.example.com/prefix", proxy=proxy.url, allow_http=True) == COMPLETED

    assert [request.target for request in proxy.requests] == ["http://air.example.com/prefix/jobs/12345/status"]


def test_https_request_through_a_proxy_hides_the_keys_from_it(send_to, tls, ca_file, keys):
    with Loopback(tunnel(tls), COMPLETED_RESPONSE) as proxy:
        assert send_to(OTHER_HOST, proxy=proxy.url, verify=ca_file) == COMPLETED

    connect, request = proxy.requests
    assert (connect.method, connect.target) == ("CONNECT", "air.example.com:443")
    assert request.target == "/jobs/12345/status"
    assert request.headers["x-amz-access-key"] == keys[0]
    for key in keys:
        assert key.encode() not in connect.raw


def test_proxy_credentials_are_sent_to_the_proxy_only(send_to, tls, ca_file):
    with Loopback(tunnel(tls), COMPLETED_RESPONSE) as proxy:
        send_to(OTHER_HOST, proxy=proxy.url.replace("://", "://user:p%40ss@"), verify=ca_file)

    connect, request = proxy.requests
    assert connect.headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert "Proxy-Authorization" not in request.headers


def test_certificate_behind_a_proxy_is_verified(expect_error, tls):
    with Loopback(tunnel(tls), COMPLETED_RESPONSE) as proxy:
        assert "is not trusted" in str(expect_error(exceptions.TlsError, OTHER_HOST, proxy=proxy.url))

    assert [request.method for request in proxy.requests] == ["CONNECT"]


@pytest.mark.parametrize(
    ("status_code", "kind"),
    [
        (302, exceptions.ApiStatusError),
        (400, exceptions.ApiStatusError),
        (403, exceptions.ApiStatusError),
        (407, exceptions.ApiStatusError),
        (408, exceptions.ApiConnectionError),
        (429, exceptions.ApiConnectionError),
        (500, exceptions.ApiConnectionError),
        (502, exceptions.ApiConnectionError),
        (503, exceptions.ApiConnectionError),
        (504, exceptions.ApiConnectionError),
    ],
)
def test_connect_refused_by_the_proxy(expect_error, status_code, kind):
    with Loopback(response(status_code, "<html>")) as proxy:
        error = expect_error(kind, OTHER_HOST, proxy=proxy.url)

    assert f"The proxy responded with HTTP {status_code}" in str(error)
    assert error.status_code == status_code
    assert [request.method for request in proxy.requests] == ["CONNECT"]


@pytest.mark.parametrize(
    ("status_code", "kind"),
    [(407, exceptions.ApiStatusError), (503, exceptions.ServerError), (504, exceptions.ServerError)],
)
def test_http_request_refused_by_the_proxy(expect_error, status_code, kind):
    with Loopback(response(status_code)) as proxy:
        expect_error(kind, "http://air.example.com", proxy=proxy.url, allow_http=True)


@pytest.mark.parametrize("script", [cut(), reset(), cut(b"HTTP/1.1 20")])
def test_connection_closed_by_the_proxy_is_a_transient_error(expect_error, script):
    with Loopback(script) as proxy:
        expect_error(exceptions.ApiConnectionError, OTHER_HOST, proxy=proxy.url)


@pytest.mark.parametrize("host", [OTHER_HOST, "http://air.example.com"])
def test_proxy_down_is_a_transient_error(expect_error, everything_shown, host):
    with refused_url() as url:
        proxy = url.replace("://", "://user:proxy-password@")
        error = expect_error(exceptions.ApiConnectionError, host, proxy=proxy, allow_http=True)

    assert "Proxy not reachable" in str(error)
    assert "proxy-password" not in everything_shown(error)


def test_proxy_password_is_not_shown_after_a_407(expect_error, everything_shown):
    with Loopback(response(407)) as proxy:
        error = expect_error(
            exceptions.ApiStatusError, OTHER_HOST, proxy=proxy.url.replace("://", "://user:proxy-password@")
        )

    assert "proxy-password" not in everything_shown(error)


@pytest.mark.parametrize(
    ("variable", "host", "target"),
    [
        ("HTTP_PROXY", "http://air.example.com", "http://air.example.com/jobs/12345/status"),
        ("http_proxy", "http://air.example.com", "http://air.example.com/jobs/12345/status"),
        ("ALL_PROXY", "http://air.example.com", "http://air.example.com/jobs/12345/status"),
        ("HTTPS_PROXY", OTHER_HOST, "air.example.com:443"),
        ("https_proxy", OTHER_HOST, "air.example.com:443"),
        ("all_proxy", OTHER_HOST, "air.example.com:443"),
    ],
)
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_of_the_environment_is_used(send_to, monkeypatch, variable, host, target, scheme):
    with Loopback(UNAVAILABLE) as proxy:
        monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{proxy.port}")
        with pytest.raises(exceptions.WasabiApiError) as caught:
            send_to(host, allow_http=True)

    assert caught.value.status_code == 503
    assert [request.target for request in proxy.requests] == [target]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "nonsense://127.0.0.1:3128", "http://", "http://[::1"])
def test_invalid_proxy_of_the_environment_is_a_permanent_error(send_to, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(exceptions.WasabiApiError) as caught:
        send_to(OTHER_HOST)

    assert not caught.value.is_transient


def test_proxy_of_the_settings_takes_precedence_over_the_environment(expect_error, monkeypatch):
    with Loopback(UNAVAILABLE) as proxy, Loopback(UNAVAILABLE) as other_proxy:
        monkeypatch.setenv("HTTPS_PROXY", other_proxy.url)
        expect_error(exceptions.ApiConnectionError, OTHER_HOST, proxy=proxy.url)

    assert len(proxy.requests) == 1
    assert other_proxy.connections == 0


def test_no_proxy_excludes_a_host(send_to, monkeypatch):
    def resolve(*_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))]

    with Loopback(COMPLETED_RESPONSE) as server, Loopback(UNAVAILABLE) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "example.com")
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert send_to(f"http://air.example.com:{server.port}", allow_http=True) == COMPLETED

    assert proxy.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_localhost_bypasses_the_proxy_of_the_environment(send_to, monkeypatch, host):
    with Loopback(COMPLETED_RESPONSE) as server, Loopback(UNAVAILABLE) as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        assert send_to(f"http://{host}:{server.port}") == COMPLETED

    assert proxy.connections == 0


def test_ipv6_loopback_bypasses_the_proxy_of_the_environment(expect_error, monkeypatch):
    with Loopback(COMPLETED_RESPONSE) as server, Loopback(UNAVAILABLE) as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        expect_error(exceptions.ApiConnectionError, f"http://[::1]:{server.port}")

    assert proxy.connections == 0


# Concurrency and cleanup


def run(main):
    return asyncio.run(asyncio.wait_for(main, timeout=20))


def test_requests_run_concurrently(settings):
    all_connected = threading.Barrier(20)

    def respond_together(connection):
        all_connected.wait(timeout=5)
        return COMPLETED_RESPONSE

    async def main():
        async with AsyncJobsClient(settings(server)) as jobs:
            return await asyncio.gather(*(jobs.send(STATUS) for _ in range(20)))

    with Loopback(respond_together) as server:
        assert run(main()) == 20 * [COMPLETED]


def test_cancelled_request_ends_immediately(settings):
    received = threading.Event()

    def stay_silent(connection):
        received.set()
        connection.closing.wait()

    async def main():
        async with AsyncJobsClient(settings(server, retries=3)) as jobs:
            poll = asyncio.create_task(jobs.send(STATUS))
            assert await asyncio.to_thread(received.wait, 5)
            poll.cancel()
            with pytest.raises(asyncio.CancelledError):
                await poll

    with Loopback(stay_silent) as server, duration():
        run(main())
    assert len(server.requests) == 1


@pytest.fixture
def freeze_garbage():
    """Exclude the garbage of other tests from collection."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (COMPLETED_RESPONSE, {}),
        (UNAVAILABLE, {"retries": 1}),
        (response(302, Location="/"), {}),
        (cut(COMPLETED_RESPONSE[:-1]), {}),
        (reset(), {}),
        (hang(COMPLETED_RESPONSE[:-1]), {"read_timeout": 0.2}),
        (response(200, TOO_LONG * b" "), {}),
        (BOMB, {}),
    ],
    ids=["completed", "503", "redirect", "closed", "reset", "silent", "too long", "gzip bomb"],
)
@pytest.mark.parametrize("transport", ["plain", "tls", "tls, untrusted", "proxy", "proxy and tls"])
def test_no_connection_is_left_open(settings, no_backoff, tls, ca_file, freeze_garbage, script, options, transport):
    if "tls" in transport and "read_timeout" in options:
        pytest.skip("asyncio waits up to 30 seconds for a silent server to close the TLS connection")

    async def main():
        async with AsyncJobsClient(client_settings) as jobs:
            with contextlib.suppress(exceptions.WasabiApiError):
                await jobs.send(STATUS)

    with_tls, with_proxy = "tls" in transport, "proxy" in transport
    scripts = [tunnel(tls), script] if transport == "proxy and tls" else [script]
    options = options if "untrusted" in transport else {**options, "verify": ca_file}
    with (
        Loopback(*scripts, tls=tls if with_tls and not with_proxy else None) as server,
        warnings.catch_warnings(record=True) as caught_warnings,
    ):
        warnings.simplefilter("always")
        if with_proxy:
            host = OTHER_HOST if with_tls else "http://air.example.com"
            client_settings = settings(host, proxy=server.url, allow_http=True, **options)
        else:
            client_settings = settings(server, **options)
        run(main())
        gc.collect()

    assert server.connections >= 1
    assert [str(warning.message) for warning in caught_warnings if warning.category is ResourceWarning] == []
