"""How calls are carried, through both clients: what goes over the wire, and what it means if it does not come back."""

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
    answer,
    chunked,
    cut,
    drip,
    gzipped,
    hang,
    json_answer,
    late,
    refusing,
    report,
    reset,
    tunnel,
)

from airflow_wasabi_jobs import __version__
from airflow_wasabi_jobs.api import calls, client, errors
from airflow_wasabi_jobs.api.client import AsyncJobsClient
from airflow_wasabi_jobs.api.models import JobReport, JobStatus

STATUS = calls.job_status("12345")
COMPLETED = JobReport(job_id="12345", status=JobStatus.COMPLETED)
DONE = report("completed")
HEAD = DONE.index(b"{")  # where the body begins
BODY = DONE[HEAD:]
OTHER_HOST = "https://air.example.com"
LONG = 5 * 1024 * 1024
BOMB = gzipped(20 * LONG * b" ")


@pytest.fixture
def no_pause(monkeypatch):
    """Try again at once, where it does not matter when."""
    monkeypatch.setattr(client, "_backoff", lambda _: 0)


@contextlib.contextmanager
def taking(at_least=0.0, at_most=10.0):
    # By far less than what is not bounded takes, and more than a busy machine needs.
    start = time.monotonic()
    yield
    assert at_least <= time.monotonic() - start < at_most


# What is sent


def test_a_request(ask, keys):
    with Loopback(DONE) as server:
        assert ask(server) == COMPLETED

    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("GET", "/jobs/12345/status", b"")
    assert request.headers["Host"] == f"127.0.0.1:{server.port}"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["User-Agent"] == f"airflow-wasabi-jobs/{__version__}"
    assert request.headers["x-amz-access-key"] == keys[0]
    assert request.headers["x-amz-secret-key"] == keys[1]


@pytest.mark.parametrize("call", [STATUS, calls.list_jobs()])
def test_the_keys_are_sent_in_two_headers_and_nowhere_else(ask, keys, call):
    with Loopback(json_answer({"Status": "submitted", "Records": []})) as server:
        ask(server, call)

    for key in keys:
        assert server.requests[0].raw.count(key.encode()) == 1
    assert "Authorization" not in server.requests[0].headers


def test_a_netrc_is_of_no_account(ask, monkeypatch, tmp_path):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login netrc password netrc\ndefault login netrc password netrc\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Loopback(DONE) as server:
        ask(server)

    assert "Authorization" not in server.requests[0].headers


def test_the_calls_of_a_client_share_a_connection(send, settings):
    with Loopback(DONE) as server:
        send(settings(server), STATUS, STATUS, STATUS)

    assert [request.connection for request in server.requests] == [0, 0, 0]


def test_a_server_may_close_the_connection_after_each_answer(send, settings):
    with Loopback(answer(200, BODY, Connection="close")) as server:
        assert send(settings(server), STATUS, STATUS) == COMPLETED

    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize(
    "script",
    [
        chunked(BODY[:5], BODY[5:]),
        cut(answer(200, BODY, Content_Length="")),
        gzipped(BODY),
        drip(DONE, start=HEAD, every=0.001),
        answer(200, b" " * 1024 * 1024 + BODY),
    ],
    ids=["in chunks", "until the end", "gzipped", "byte by byte", "a megabyte"],
)
def test_an_answer_may_come_in_many_ways(ask, script):
    with Loopback(script) as server:
        assert ask(server) == COMPLETED


def test_a_host_name_that_is_not_ascii(ask, monkeypatch):
    def resolve(*_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))]

    with Loopback(DONE) as server:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert ask(f"http://bücher.example.com:{server.port}", allow_http=True) == COMPLETED

    assert server.requests[0].headers["Host"] == f"xn--bcher-kva.example.com:{server.port}"


# Redirects


@pytest.mark.parametrize("status_code", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed(refused, status_code):
    with Loopback(DONE) as other, Loopback(answer(status_code, Location=f"{other.url}/jobs/12345/status")) as server:
        error = refused(errors.Redirected, server, retries=2)

    assert error.status_code == status_code
    assert not error.is_passing
    assert len(server.requests) == 1
    assert other.connections == 0


@pytest.mark.parametrize(
    "location", [None, "", "/jobs", "//", "http://[", "http://x:port/", "http://x/\xff", "mailto:x"]
)
def test_a_redirect_may_point_anywhere(refused, location):
    with Loopback(answer(302, **({"Location": location} if location else {}))) as server:
        assert refused(errors.Redirected, server).status_code == 302


# Answers that are too long


@pytest.mark.parametrize(
    "script",
    [
        answer(200, LONG * b" "),
        chunked(LONG * b" "),
        BOMB,
        BOMB.replace(b"200 OK", b"500 Not OK"),
    ],
    ids=["long", "in chunks", "gzipped", "a gzipped refusal"],
)
def test_an_answer_that_is_too_long(refused, script):
    with Loopback(script) as server:
        error = refused(errors.UnexpectedAnswer, server, retries=2)

    assert "longer than" in str(error)
    assert not error.is_passing
    assert len(server.requests) == 1


@pytest.mark.parametrize("status_code", [200, 302, 404, 500])
def test_of_an_endless_answer_no_more_is_read_than_what_is_too_long(ask, status_code):
    sent = 0

    def endless(wire):
        nonlocal sent
        wire.send(answer(status_code, Content_Length="", Location="/"))
        while sent < 20 * LONG:
            wire.send(64 * 1024 * b" ")
            sent += 64 * 1024

    with Loopback(endless) as server, pytest.raises(errors.UnexpectedAnswer):
        ask(server)
    assert sent < 10 * LONG


# Answers that do not come, or not as a whole

PASSING = {
    "ended": cut(),
    "reset": reset(),
    "ended in the status line": cut(DONE[:5]),
    "ended in the headers": cut(DONE[: HEAD - 6]),
    "ended before the empty line": cut(DONE[: HEAD - 2]),
    "reset in the headers": reset(DONE[: HEAD - 6]),
    "ended before the body": cut(DONE[:HEAD]),
    "ended in the body": cut(DONE[:-1]),
    "reset in the body": reset(DONE[:-1]),
    "ended before a chunk": cut(chunked(BODY, end=b"")),
    "ended in the length of a chunk": cut(chunked(BODY, end=b"1")),
    "ended in a chunk": cut(chunked(BODY, BODY)[:-20]),
    "reset in a chunk": reset(chunked(BODY, BODY)[:-20]),
    "a refusal that ended in its body": cut(answer(404, "No such job")[:-3]),
}


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
def test_an_answer_that_is_cut_short_is_passing_trouble(refused, script):
    with Loopback(script) as server:
        error = refused(errors.PassingNoAnswer, server)

    assert error.is_passing
    assert "the connection was cut" in str(error)
    assert error.status_code is None
    assert len(server.requests) == 1


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
def test_the_next_try_may_fare_better(ask, no_pause, script):
    with Loopback(script, DONE) as server:
        assert ask(server, retries=1) == COMPLETED

    assert len(server.requests) == 2


def test_a_connection_that_is_refused_is_passing_trouble(refused):
    with refusing() as url:
        error = refused(errors.PassingNoAnswer, url)

    assert "the connection was refused" in str(error)


@pytest.mark.parametrize(
    "script",
    [
        cut(b"Hello, who is there?\r\n\r\n"),
        hang(b"SSH-2.0-OpenSSH_9.6\r\n"),
        cut(b"HTTP/1.1 abc OK\r\n\r\n"),
        cut(b"HTTP/1.1 200 OK\r\nX-Long: " + 100_000 * b"x" + b"\r\n\r\n{}"),
        cut(chunked(BODY, end=b"zz\r\n")),
        answer(200, b"not gzipped", Content_Encoding="gzip"),
    ],
    ids=["talk", "SSH", "no status", "a long header", "no chunk", "no gzip"],
)
def test_what_is_not_http_was_not_promised(refused, script):
    with Loopback(script) as server:
        error = refused(errors.UnexpectedAnswer, server, retries=2)

    assert "is not HTTP" in str(error)
    assert len(server.requests) == 1


def test_a_gzipped_answer_that_was_cut_before_it_was_sent_was_not_promised(refused):
    with Loopback(answer(200, gzipped(BODY).partition(b"\r\n\r\n")[2][:-12], Content_Encoding="gzip")) as server:
        refused(errors.UnexpectedAnswer, server)


# Time-outs


def flood(wire):
    wire.send(chunked(end=b""))
    while not wire.closing.is_set():
        wire.send(b"1\r\n \r\n")


@pytest.mark.parametrize(
    "script",
    [
        hang(),
        hang(DONE[: HEAD - 6]),
        hang(DONE[:-1]),
        drip(DONE),
        drip(DONE, start=HEAD),
        drip(chunked(*(bytes([byte]) for byte in BODY)), start=HEAD),
        drip(gzipped(BODY), start=HEAD),
        flood,
    ],
    ids=[
        "nothing",
        "in the headers",
        "in the body",
        "slow headers",
        "slow body",
        "slow chunks",
        "slow gzip",
        "a flood",
    ],
)
def test_the_whole_answer_must_be_here_in_time(refused, script):
    with Loopback(script) as server, taking(at_least=0.15):
        error = refused(errors.PassingNoAnswer, server, read_timeout=0.2)

    assert error.is_passing
    assert "time was up" in str(error)
    assert len(server.requests) == 1


def test_time_to_connect_does_not_shorten_the_time_to_read(ask):
    with Loopback(late(DONE, after=0.3)) as server:
        assert ask(server, connect_timeout=0.15, read_timeout=5) == COMPLETED


@pytest.fixture
def deaf():
    """A port of a server that is too busy to accept a connection."""
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
            pytest.skip("this system accepts connections that no server asked for")
        yield server.getsockname()[1]


def test_the_connection_must_stand_in_time(refused, deaf):
    with taking(at_least=0.15):
        error = refused(errors.PassingNoAnswer, f"http://127.0.0.1:{deaf}", connect_timeout=0.2)

    assert "time was up" in str(error)


def test_the_connection_must_stand_in_time_whatever_the_number_of_addresses(refused, deaf, monkeypatch):
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", deaf))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: 100 * addresses)
    with taking(at_least=0.15):
        refused(errors.PassingNoAnswer, f"{OTHER_HOST}:{deaf}", connect_timeout=0.2, read_timeout=0.2)


def test_an_address_that_this_machine_can_not_speak_to_is_passed_over(ask, monkeypatch):
    unknown = (socket.AF_INET, socket.SOCK_STREAM, 9999, "", ("127.0.0.1", 1))
    with Loopback(report("completed")) as server:
        known = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [unknown, known])
        assert ask(f"http://air.example.com:{server.port}", allow_http=True).status == "completed"


def test_tls_must_be_agreed_on_in_time(refused):
    with Loopback(hang(), at_once=True) as server, taking(at_least=0.15):
        refused(errors.PassingNoAnswer, f"https://127.0.0.1:{server.port}", connect_timeout=0.2)


@pytest.mark.parametrize("agreed", [hang(), drip(answer(200, X_More=600 * "x"), every=0.02)], ids=["silent", "slow"])
def test_a_proxy_must_connect_in_time(refused, agreed):
    with Loopback(agreed) as proxy, taking(at_least=0.15):
        refused(errors.PassingNoAnswer, OTHER_HOST, proxy=proxy.url, connect_timeout=0.2)


def test_proxy_and_tls_together_must_stand_in_time(refused):
    def agree(wire):
        if not wire.closing.wait(1.8):
            wire.send(answer(200, Content_Length=""))
            wire.closing.wait()

    with Loopback(agree) as proxy, taking(at_least=1.9, at_most=3.7):
        refused(errors.PassingNoAnswer, OTHER_HOST, proxy=proxy.url, connect_timeout=2, read_timeout=0.1)


# Retries

BUSY = answer(503)
TRIED_AGAIN = {
    "503": BUSY,
    "429": answer(429),
    "408": answer(408),
    "refused by a proxy": answer(502, "<html>"),
    "reset": reset(),
    "cut short": cut(DONE[:-1]),
}
NOT_TRIED_AGAIN = {
    "204": answer(204, Content_Length=""),
    "400": answer(400),
    "401": answer(401),
    "403": answer(403),
    "404": answer(404),
    "407": answer(407),
    "no JSON": answer(200, "<html>"),
    "an unknown status": report("unheard-of"),
    "no HTTP": cut(b"Hello\r\n\r\n"),
}


@pytest.mark.parametrize("retries", [0, 1, 2, 10])
def test_retries_are_the_tries_after_the_first(refused, no_pause, retries):
    with Loopback(BUSY) as server:
        refused(errors.ServerTrouble, server, retries=retries)

    assert len(server.requests) == 1 + retries


@pytest.mark.parametrize("script", TRIED_AGAIN.values(), ids=TRIED_AGAIN)
def test_passing_trouble_is_tried_again(ask, no_pause, script):
    with Loopback(script) as server, pytest.raises(errors.AirError) as caught:
        ask(server, retries=1)

    assert caught.value.is_passing
    assert len(server.requests) == 2


@pytest.mark.parametrize("script", NOT_TRIED_AGAIN.values(), ids=NOT_TRIED_AGAIN)
def test_what_does_not_pass_is_not_tried_again(ask, script):
    with Loopback(script, DONE) as server, pytest.raises(errors.AirError) as caught:
        ask(server, retries=3)

    assert not caught.value.is_passing
    assert len(server.requests) == 1


def test_the_last_error_counts(refused, no_pause):
    with Loopback(BUSY, answer(429), answer(404)) as server:
        refused(errors.NotFound, server, retries=3)


def test_passing_trouble_on_a_connection_that_was_used_before_counts_as_well(send, settings):
    with Loopback(DONE, reset()) as server, pytest.raises(errors.PassingNoAnswer):
        send(settings(server), STATUS, STATUS)

    assert len(server.requests) == 2


def test_a_pause_that_was_asked_for_is_kept(ask):
    with Loopback(answer(503, Retry_After="1"), DONE) as server, taking(at_least=1):
        assert ask(server, retries=1) == COMPLETED


@pytest.mark.parametrize("pause", ["1", "3600", "1e999"])
def test_a_pause_that_does_not_fit_ends_the_look(refused, pause):
    with Loopback(answer(429, Retry_After=pause), DONE) as server, taking():
        error = refused(errors.TooManyRequests, server, retries=5, read_timeout=0.5)

    assert error.is_passing
    assert error.retry_after == min(float(pause), 1e9)
    assert len(server.requests) == 1


def test_there_is_a_pause_between_two_tries(refused):
    with Loopback(BUSY) as server, taking(at_least=0.2):
        refused(errors.ServerTrouble, server, retries=1)


def test_a_look_is_bounded_with_all_its_tries(ask):
    with (
        Loopback(late(BUSY, after=1.5), hang()) as server,
        taking(at_least=3.6),
        pytest.raises(errors.PassingNoAnswer),
    ):
        ask(server, retries=10, connect_timeout=0.1, read_timeout=2)

    assert len(server.requests) == 2


def test_a_look_that_no_server_hears_is_bounded_too(refused):
    with refusing() as url, taking():
        refused(errors.PassingNoAnswer, url, retries=10, connect_timeout=0.1, read_timeout=0.2)


# Names


def test_a_host_that_does_not_exist_is_an_error(refused, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    error = refused(errors.NoAnswer, OTHER_HOST, retries=2)
    assert not error.is_passing
    assert "no such host" in str(error)


def test_a_name_server_that_is_busy_is_passing_trouble(ask, monkeypatch):
    looked_up = []

    def busy_once(*_, **__):
        looked_up.append(1)
        if len(looked_up) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))]

    with Loopback(DONE) as server:
        monkeypatch.setattr(socket, "getaddrinfo", busy_once)
        url = f"http://air.example.com:{server.port}"
        with pytest.raises(errors.PassingNoAnswer, match="name server"):
            ask(url, allow_http=True)
        assert ask(url, allow_http=True) == COMPLETED


# TLS


def test_a_certificate_is_verified_with_the_ca_bundle_of_the_settings(ask, tls, ca_file):
    with Loopback(DONE, tls=tls) as server:
        assert ask(server, verify=ca_file) == COMPLETED


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_is_not_verified_if_the_settings_say_so(ask, tls):
    with Loopback(DONE, tls=tls) as server:
        assert ask(server, verify=False) == COMPLETED


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_certificate_is_verified_with_the_ca_bundle_of_the_environment(ask, tls, ca_file, monkeypatch, variable):
    monkeypatch.setenv(variable, ca_file)
    with Loopback(DONE, tls=tls) as server:
        assert ask(server) == COMPLETED


def test_the_ca_bundle_of_the_settings_counts_more_than_that_of_the_environment(ask, tls, ca_file, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file.pem")
    with Loopback(DONE, tls=tls) as server:
        assert ask(server, verify=ca_file) == COMPLETED


@pytest.mark.parametrize("flaw", ["an authority nobody knows", "the name of another", "too old"])
def test_a_certificate_that_does_not_verify_is_an_error(refused, authority, server_tls, ca_file, flaw):
    context = {
        "an authority nobody knows": lambda: server_tls(trustme.CA()),
        "the name of another": lambda: server_tls(authority, "other.example.com"),
        "too old": lambda: server_tls(authority, not_after=datetime.now(UTC) - timedelta(days=1)),
    }[flaw]()
    with Loopback(DONE, tls=context) as server:
        error = refused(errors.NoAnswer, server, verify=ca_file, retries=2)

    assert "does not verify" in str(error)
    assert "'verify' in the connection's extra" in str(error)
    assert not error.is_passing
    assert server.requests == []
    assert server.connections == 1


def test_the_well_known_authorities_are_asked_unless_told_otherwise(refused, tls):
    with Loopback(DONE, tls=tls) as server:
        assert "does not verify" in str(refused(errors.NoAnswer, server))


@pytest.mark.parametrize(
    "content", [None, "", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
@pytest.mark.parametrize("named_in", ["settings", "environment"])
def test_a_ca_bundle_that_can_not_be_read_is_an_error(refused, tmp_path, monkeypatch, content, named_in):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    if named_in == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    verify = str(bundle) if named_in == "settings" else True
    with refusing() as url:
        error = refused(errors.InvalidSettings, url.replace("http", "https"), verify=verify)

    assert str(bundle) in str(error)
    assert {"settings": "'verify'", "environment": "REQUESTS_CA_BUNDLE"}[named_in] in str(error)
    assert "connection 'wasabi_default'" in str(error)


def test_a_directory_may_hold_the_authorities(refused, tls, tmp_path):
    with Loopback(DONE, tls=tls) as server:
        assert "does not verify" in str(refused(errors.NoAnswer, server, verify=str(tmp_path)))


def test_a_ca_bundle_that_was_changed_is_read_again(ask, tls, ca_file, tmp_path):
    bundle = tmp_path / "bundle.pem"
    with Loopback(DONE, tls=tls) as server:
        trustme.CA().cert_pem.write_to_path(str(bundle))
        with pytest.raises(errors.NoAnswer, match="does not verify"):
            ask(server, verify=str(bundle))

        before = bundle.stat().st_mtime
        bundle.write_bytes(Path(ca_file).read_bytes())
        os.utime(bundle, (before + 1, before + 1))
        assert ask(server, verify=str(bundle)) == COMPLETED


def test_a_server_that_does_not_speak_tls_is_an_error(refused):
    with Loopback(DONE) as server:
        error = refused(errors.NoAnswer, f"https://127.0.0.1:{server.port}", retries=2)

    assert "no TLS was agreed on" in str(error)
    assert not error.is_passing
    assert server.connections == 1


def test_a_server_that_speaks_nothing_but_tls_gives_no_answer(ask, tls):
    with Loopback(DONE, tls=tls) as server, pytest.raises(errors.AirError):
        ask(f"http://127.0.0.1:{server.port}", read_timeout=0.5)
    assert server.requests == []


@pytest.mark.parametrize("script", [cut(), reset()])
def test_a_connection_that_is_lost_while_tls_is_agreed_on_is_passing_trouble(refused, script):
    with Loopback(script, at_once=True) as server:
        refused(errors.PassingNoAnswer, f"https://127.0.0.1:{server.port}")


@pytest.mark.parametrize("script", [cut(DONE[:-1]), cut(DONE[: HEAD - 6]), reset(DONE[:-1]), hang(DONE[:-1])])
def test_an_answer_through_tls_that_is_cut_short_is_passing_trouble(refused, tls, ca_file, script):
    with Loopback(script, tls=tls) as server, taking():
        refused(errors.PassingNoAnswer, server, verify=ca_file, read_timeout=0.2)


# Proxies


def test_plain_http_goes_through_the_proxy(ask):
    with Loopback(DONE) as proxy:
        assert ask("http://air.example.com/prefix", proxy=proxy.url, allow_http=True) == COMPLETED

    assert [request.target for request in proxy.requests] == ["http://air.example.com/prefix/jobs/12345/status"]


def test_https_goes_through_a_tunnel_in_which_the_proxy_sees_no_key(ask, tls, ca_file, keys):
    with Loopback(tunnel(tls), DONE) as proxy:
        assert ask(OTHER_HOST, proxy=proxy.url, verify=ca_file) == COMPLETED

    connect, request = proxy.requests
    assert (connect.method, connect.target) == ("CONNECT", "air.example.com:443")
    assert request.target == "/jobs/12345/status"
    assert request.headers["x-amz-access-key"] == keys[0]
    for key in keys:
        assert key.encode() not in connect.raw


def test_the_proxy_gets_its_user_and_password_and_nobody_else_does(ask, tls, ca_file):
    with Loopback(tunnel(tls), DONE) as proxy:
        ask(OTHER_HOST, proxy=proxy.url.replace("://", "://user:p%40ss@"), verify=ca_file)

    connect, request = proxy.requests
    assert connect.headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert "Proxy-Authorization" not in request.headers


def test_the_certificate_behind_a_proxy_is_verified(refused, tls):
    with Loopback(tunnel(tls), DONE) as proxy:
        assert "does not verify" in str(refused(errors.NoAnswer, OTHER_HOST, proxy=proxy.url))

    assert [request.method for request in proxy.requests] == ["CONNECT"]


@pytest.mark.parametrize(
    ("status_code", "kind"),
    [
        (302, errors.Refusal),
        (400, errors.Refusal),
        (403, errors.Refusal),
        (407, errors.Refusal),
        (408, errors.PassingNoAnswer),
        (429, errors.PassingNoAnswer),
        (500, errors.PassingNoAnswer),
        (502, errors.PassingNoAnswer),
        (503, errors.PassingNoAnswer),
        (504, errors.PassingNoAnswer),
    ],
)
def test_a_proxy_that_does_not_connect(refused, status_code, kind):
    with Loopback(answer(status_code, "<html>")) as proxy:
        error = refused(kind, OTHER_HOST, proxy=proxy.url)

    assert f"the proxy answered {status_code}" in str(error)
    assert error.status_code == status_code
    assert [request.method for request in proxy.requests] == ["CONNECT"]


@pytest.mark.parametrize(
    ("status_code", "kind"), [(407, errors.Refusal), (503, errors.ServerTrouble), (504, errors.ServerTrouble)]
)
def test_a_proxy_that_does_not_pass_plain_http_on(refused, status_code, kind):
    with Loopback(answer(status_code)) as proxy:
        refused(kind, "http://air.example.com", proxy=proxy.url, allow_http=True)


@pytest.mark.parametrize("script", [cut(), reset(), cut(b"HTTP/1.1 20")])
def test_a_proxy_that_hangs_up_is_passing_trouble(refused, script):
    with Loopback(script) as proxy:
        refused(errors.PassingNoAnswer, OTHER_HOST, proxy=proxy.url)


@pytest.mark.parametrize("host", [OTHER_HOST, "http://air.example.com"])
def test_a_proxy_that_is_down_is_passing_trouble(refused, all_said, host):
    with refusing() as url:
        proxy = url.replace("://", "://user:proxy-password@")
        error = refused(errors.PassingNoAnswer, host, proxy=proxy, allow_http=True)

    assert "the proxy can't be reached" in str(error)
    assert "proxy-password" not in all_said(error)


def test_a_password_is_not_shown_when_the_proxy_refuses_it(refused, all_said):
    with Loopback(answer(407)) as proxy:
        error = refused(errors.Refusal, OTHER_HOST, proxy=proxy.url.replace("://", "://user:proxy-password@"))

    assert "proxy-password" not in all_said(error)


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
def test_a_proxy_of_the_environment_is_used(ask, monkeypatch, variable, host, target, scheme):
    with Loopback(BUSY) as proxy:
        monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{proxy.port}")
        with pytest.raises(errors.AirError) as caught:
            ask(host, allow_http=True)

    assert caught.value.status_code == 503
    assert [request.target for request in proxy.requests] == [target]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "nonsense://127.0.0.1:3128", "http://", "http://[::1"])
def test_a_proxy_of_the_environment_that_can_not_be_used_is_an_error(ask, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(errors.AirError) as caught:
        ask(OTHER_HOST)

    assert not caught.value.is_passing


def test_the_proxy_of_the_settings_counts_more_than_that_of_the_environment(refused, monkeypatch):
    with Loopback(BUSY) as proxy, Loopback(BUSY) as other:
        monkeypatch.setenv("HTTPS_PROXY", other.url)
        refused(errors.PassingNoAnswer, OTHER_HOST, proxy=proxy.url)

    assert len(proxy.requests) == 1
    assert other.connections == 0


def test_the_environment_may_except_a_host_from_its_proxy(ask, monkeypatch):
    def resolve(*_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", server.port))]

    with Loopback(DONE) as server, Loopback(BUSY) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "example.com")
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert ask(f"http://air.example.com:{server.port}", allow_http=True) == COMPLETED

    assert proxy.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_not_asked_through_a_proxy_of_the_environment(ask, monkeypatch, host):
    with Loopback(DONE) as server, Loopback(BUSY) as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        assert ask(f"http://{host}:{server.port}") == COMPLETED

    assert proxy.connections == 0


def test_nor_is_its_address_of_ip_version_6(refused, monkeypatch):
    with Loopback(DONE) as server, Loopback(BUSY) as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        refused(errors.PassingNoAnswer, f"http://[::1]:{server.port}")

    assert proxy.connections == 0


# In an event loop


def run(main):
    return asyncio.run(asyncio.wait_for(main, timeout=20))


def test_many_are_asked_at_a_time(settings):
    all_here = threading.Barrier(20)

    def together(wire):
        all_here.wait(timeout=5)
        return DONE

    async def main():
        async with AsyncJobsClient(settings(server)) as jobs:
            return await asyncio.gather(*(jobs.send(STATUS) for _ in range(20)))

    with Loopback(together) as server:
        assert run(main()) == 20 * [COMPLETED]


def test_a_look_that_is_given_up_ends_at_once(settings):
    asked = threading.Event()

    def silent(wire):
        asked.set()
        wire.closing.wait()

    async def main():
        async with AsyncJobsClient(settings(server, retries=3)) as jobs:
            look = asyncio.create_task(jobs.send(STATUS))
            assert await asyncio.to_thread(asked.wait, 5)
            look.cancel()
            with pytest.raises(asyncio.CancelledError):
                await look

    with Loopback(silent) as server, taking():
        run(main())
    assert len(server.requests) == 1


@pytest.fixture
def own_garbage():
    """What other tests left is not collected."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (DONE, {}),
        (BUSY, {"retries": 1}),
        (answer(302, Location="/"), {}),
        (cut(DONE[:-1]), {}),
        (reset(), {}),
        (hang(DONE[:-1]), {"read_timeout": 0.2}),
        (answer(200, LONG * b" "), {}),
        (BOMB, {}),
    ],
    ids=["done", "busy", "redirected", "cut", "reset", "silent", "long", "gzipped"],
)
@pytest.mark.parametrize("way", ["plain", "tls", "tls that does not verify", "proxy", "proxy and tls"])
def test_nothing_is_left_open(settings, no_pause, tls, ca_file, own_garbage, script, options, way):
    async def main():
        async with AsyncJobsClient(some) as jobs:
            with contextlib.suppress(errors.AirError):
                await jobs.send(STATUS)

    with_tls, with_proxy = "tls" in way, "proxy" in way
    scripts = [tunnel(tls), script] if way == "proxy and tls" else [script]
    options = options if "not verify" in way else {**options, "verify": ca_file}
    with (
        Loopback(*scripts, tls=tls if with_tls and not with_proxy else None) as server,
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        if with_proxy:
            host = OTHER_HOST if with_tls else "http://air.example.com"
            some = settings(host, proxy=server.url, allow_http=True, **options)
        else:
            some = settings(server, **options)
        run(main())
        gc.collect()

    assert server.connections >= 1
    assert [str(warning.message) for warning in warned if warning.category is ResourceWarning] == []
