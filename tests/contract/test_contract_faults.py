"""What can go wrong on the way, and what comes of it: for both clients, and for a wait, wherever it waits."""

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
from connecting import ACCESS_KEY, SECRET_KEY
from loopback import Answer, Loopback, Wire, answer, chunked, cut, drip, gzipped, hang, refusing, report, reset
from waiting import wait

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.api.models import JobReport, JobStatus
from airflow_wasabi_jobs.api.settings import check

BODY = b'{"Id": "12345", "Status": "in_progress", "ErrorCount": 0}'
UNDERSTOOD = JobReport("12345", JobStatus.IN_PROGRESS)
WHOLE = answer(200, BODY)
SOON = 0.3  # by which no whole answer comes
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
CONTINUE, HINTS = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


def elsewhere(status_code: int) -> Answer:
    """Redirect to this very server, by another of its names."""

    def act(wire: Wire) -> bytes:
        location = f"http://localhost:{wire.sock.getsockname()[1]}{wire.request.target}"
        return answer(status_code, Location=location, Content_Length="" if status_code == 304 else "0")

    return act


class Fault(NamedTuple):
    """
    :param outcome: the error of a call, or None if nothing is wrong after all.
    :param answer: what the server answers, if it is asked at all.
    :param read_timeout: how long that is waited for.
    """

    outcome: type[errors.AirError] | None
    answer: Answer | None
    read_timeout: float = 10


FAULTS = {
    # Nothing is wrong
    "in chunks": Fault(None, chunked(BODY[:5], BODY[5:])),
    "gzip": Fault(None, gzipped(BODY)),
    "deflate": Fault(None, answer(200, zlib.compress(BODY), Content_Encoding="deflate")),
    "gzip in chunks": Fault(
        None, chunked(gzip.compress(BODY)).replace(b"Transfer", b"Content-Encoding: gzip\r\nTransfer", 1)
    ),
    "until the connection ends": Fault(None, cut(answer(200, BODY, Content_Length=""))),
    "HTTP/1.0": Fault(None, cut(WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"))),
    "keep-alive that is not kept": Fault(None, cut(WHOLE)),
    "another content type": Fault(None, answer(200, BODY, Content_Type="text/html")),
    "another charset": Fault(None, answer(200, BODY, Content_Type="application/json; charset=utf-16")),
    "100 before it": Fault(None, CONTINUE + WHOLE),
    "103 before it": Fault(None, HINTS + WHOLE),
    "102 before it": Fault(None, b"HTTP/1.1 102 Processing\r\n\r\n" + WHOLE),
    "100 and 103 before it": Fault(None, CONTINUE + HINTS + HINTS + WHOLE),
    # Nothing comes, or not all of it
    "refused": Fault(errors.PassingNoAnswer, None),
    "the name server is busy": Fault(errors.PassingNoAnswer, None),
    "ended": Fault(errors.PassingNoAnswer, cut()),
    "reset": Fault(errors.PassingNoAnswer, reset()),
    "ended before the body": Fault(errors.PassingNoAnswer, cut(WHOLE[: -len(BODY)])),
    "reset before the body": Fault(errors.PassingNoAnswer, reset(WHOLE[: -len(BODY)])),
    "ended in the body": Fault(errors.PassingNoAnswer, cut(WHOLE[:-9])),
    "reset in the body": Fault(errors.PassingNoAnswer, reset(WHOLE[:-9])),
    "ended between chunks": Fault(errors.PassingNoAnswer, cut(chunked(BODY[:5], end=b""))),
    "ended in gzip": Fault(errors.PassingNoAnswer, cut(gzipped(BODY)[:-9])),
    "101": Fault(errors.UnexpectedAnswer, cut(SWITCHING + WHOLE)),
    "ended after a 103": Fault(errors.PassingNoAnswer, cut(HINTS)),
    "silence": Fault(errors.PassingNoAnswer, hang(), SOON),
    "silence in the body": Fault(errors.PassingNoAnswer, hang(WHOLE[:-9]), SOON),
    "silence after a 103": Fault(errors.PassingNoAnswer, hang(HINTS), SOON),
    "drop by drop": Fault(errors.PassingNoAnswer, drip(WHOLE), SOON),
    # Nobody there to talk to
    "no such host": Fault(errors.NoAnswer, None),
    "the certificate of another": Fault(errors.NoAnswer, None),
    # It is not the answer
    "JSON cut short": Fault(errors.UnexpectedAnswer, answer(200, BODY[:-9])),
    "no JSON": Fault(errors.UnexpectedAnswer, answer(200, "<html>Welcome to the hotel</html>")),
    "nothing": Fault(errors.UnexpectedAnswer, answer(200)),
    "ten megabytes": Fault(errors.UnexpectedAnswer, answer(200, 10 * 1024 * 1024 * b" " + BODY)),
    "said to be gzip": Fault(errors.UnexpectedAnswer, answer(200, BODY, Content_Encoding="gzip")),
    "not said to be gzip": Fault(errors.UnexpectedAnswer, answer(200, gzip.compress(BODY))),
    "UTF-16": Fault(errors.UnexpectedAnswer, answer(200, BODY.decode().encode("utf-16"))),
    "no HTTP": Fault(errors.UnexpectedAnswer, cut(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")),
    "201": Fault(errors.UnexpectedAnswer, answer(201, BODY)),
    "204": Fault(errors.UnexpectedAnswer, answer(204, Content_Length="")),
    # It is a no
    **{str(code): Fault(errors.Redirected, elsewhere(code)) for code in (300, 301, 302, 303, 304, 307, 308)},
    **{str(code): Fault(errors.Refusal, answer(code)) for code in (400, 402, 405, 407, 410, 418, 451)},
    "401": Fault(errors.Unauthorized, answer(401)),
    "403": Fault(errors.Forbidden, answer(403)),
    "404": Fault(errors.NotFound, answer(404)),
    # It is a not now
    **{
        str(code): Fault(errors.ServerTrouble, answer(code, "<html>Bad Gateway</html>"))
        for code in (408, 425, 500, 501, 502, 503, 504, 520, 599)
    },
    "429": Fault(errors.TooManyRequests, answer(429)),
    **{
        f"429 for {pause}": Fault(errors.TooManyRequests, answer(429, Retry_After=pause))
        for pause in ("0", "0.01", "-1", "1000000000", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1e999", "nan")
    },
    "503 for 1000000000": Fault(errors.ServerTrouble, answer(503, Retry_After="1000000000")),
}
each_fault = pytest.mark.parametrize("name", FAULTS)


class Way(NamedTuple):
    """
    A server that answers well, with a fault on the way to it.

    :param url: the base URL to ask.
    :param options: how to ask there.
    :param asked: how many requests came so far.
    """

    url: str
    options: dict[str, Any]
    asked: Callable[[], int]


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch, authorities: Any) -> Any:
    """Make the way to a server: it answers as told ``before``, then comes the fault, and all is well after that."""

    @contextmanager
    def make(name: str, *before: bytes) -> Iterator[Way]:
        fault = FAULTS[name]
        scripts = [*before, *([fault.answer] if fault.answer else []), report("completed")]
        tls, ca_file = authorities(at=len(before)) if name == "the certificate of another" else (None, True)
        with ExitStack() as stack, Loopback(*scripts, tls=tls) as server:
            url = server.url
            if name == "refused":
                stack.enter_context(_refused(monkeypatch, server.port, at=len(before)))
            if name in _LOOK_UPS:
                url = f"http://air.example.com:{server.port}"
                _look_up(monkeypatch, server.port, _LOOK_UPS[name], at=len(before))
            options = {"retries": 0, "read_timeout": fault.read_timeout, "verify": ca_file, "allow_http": True}
            yield Way(url, options, lambda: len(server.requests))

    return make


_LOOK_UPS = {"the name server is busy": socket.EAI_AGAIN, "no such host": socket.EAI_NONAME}


@contextmanager
def _refused(monkeypatch: pytest.MonkeyPatch, port: int, *, at: int) -> Iterator[None]:
    """Lead one of the connections, by its number, to a port that refuses it."""
    connect, numbers = socket.socket.connect, itertools.count()
    with refusing() as url:
        other = ("127.0.0.1", int(url.rpartition(":")[2]))

        def misled(sock: socket.socket, address: Any) -> None:
            connect(sock, other if address[1] == port and next(numbers) == at else address)

        monkeypatch.setattr(socket.socket, "connect", misled)
        yield


def _look_up(monkeypatch: pytest.MonkeyPatch, port: int, code: int, *, at: int) -> None:
    """Have one of the look-ups, by its number, fail."""
    numbers = itertools.count()

    def look_up(*_: Any, **__: Any) -> Any:
        if next(numbers) == at:
            raise socket.gaierror(code, "as the test wants it")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.fixture
def authorities(tmp_path: Any) -> Any:
    """Make what a server needs to show a good certificate on all connections but one, and whom to trust."""

    def make(*, at: int) -> tuple[ssl.SSLContext, str]:
        trusted, other = trustme.CA(), trustme.CA()
        contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
        for authority, context in zip((trusted, other), contexts, strict=True):
            authority.issue_cert("127.0.0.1").configure_cert(context)
        numbers = itertools.count()

        def choose(sock: Any, *_: Any) -> None:
            sock.context = contexts[next(numbers) == at]

        contexts[0].sni_callback = choose
        trusted.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        return contexts[0], str(tmp_path / "ca.pem")

    return make


def send(settings: Any) -> JobReport:
    return JobsClient(settings).send(calls.job_status("12345"))


def asend(settings: Any) -> JobReport:
    async def main() -> JobReport:
        async with AsyncJobsClient(settings) as client:
            return await client.send(calls.job_status("12345"))

    return asyncio.run(main())


@each_fault
@pytest.mark.parametrize("send", [send, asend], ids=["sync", "async"])
def test_a_call(way: Any, name: str, send: Any) -> None:
    fault = FAULTS[name]
    with way(name) as there:
        settings = check(
            name="connection 'wasabi_default'",
            host=there.url,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            extra=json.dumps(there.options),
        )
        if fault.outcome is None:
            assert send(settings) == UNDERSTOOD
        else:
            with pytest.raises(errors.AirError) as caught:
                send(settings)
            assert type(caught.value) is fault.outcome

        assert there.asked() == (1 if fault.answer else 0)


@each_fault
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_wait(way: Any, monkeypatch: pytest.MonkeyPatch, connect: Any, name: str, mode: str) -> None:
    monkeypatch.setattr("airflow_wasabi_jobs.watch.pace.LONGEST_PAUSE", 0.01)
    fault = FAULTS[name]
    # The first look of a deferrable sensor is that of a worker. The connection is closed: the fault is on the next.
    with way(name, answer(200, BODY, Connection="close")) as there:
        connect(there.url, **there.options)
        if fault.outcome is None or fault.outcome.is_passing:
            told = wait(monkeypatch, mode, poke_interval=0.01, timeout=60)
            assert told == {"job_id": "12345", "status": "completed", "error_count": 0}
            looks = 3
        else:
            with pytest.raises(errors.AirError) as caught:
                wait(monkeypatch, mode, poke_interval=0.01, timeout=60)
            assert type(caught.value) is fault.outcome
            looks = 2

        asked = looks if fault.answer else looks - 1
        # A busy machine may be too late for a good answer, too, and need another look.
        assert there.asked() == asked or (fault.read_timeout == SOON and there.asked() > asked)


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.outcome is errors.TooManyRequests])
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_storm_of_429s(monkeypatch: pytest.MonkeyPatch, connect: Any, name: str, mode: str) -> None:
    monkeypatch.setattr("airflow_wasabi_jobs.watch.pace.LONGEST_PAUSE", 0.01)
    storm: Any = [FAULTS[name].answer] * 20
    with Loopback(report("in_progress"), *storm, report("completed")) as server:
        connect(server.url, read_timeout=30)

        told = wait(monkeypatch, mode, poke_interval=0.01, timeout=60)

        assert told == {"job_id": "12345", "status": "completed", "error_count": 0}
        assert len(server.requests) == 22
