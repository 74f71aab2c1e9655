"""
A server on the loopback that answers by a script, and misbehaves if the script says so.

::

    with Loopback(answer(503), report("completed")) as server:
        look_at(server.url)
    assert [request.target for request in server.requests] == ["/jobs/12345/status"] * 2

The first request gets the first answer, whichever connection it comes on, and so on; the last answer is for all that
follow. An answer is the bytes to send, after which the connection stays open unless they say ``Connection: close``, or
a function that is given the :class:`Wire`, for all that bytes can't do.
"""

from __future__ import annotations

import contextlib
import gzip
import http
import http.client
import io
import json
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any, Self

Answer = bytes | Callable[["Wire"], bytes | None]


@dataclass(frozen=True)
class Request:
    """
    A request as it came.

    :param number: which one it is at this server, from 0.
    :param connection: which connection it came on, from 0.
    :param target: what stands between method and version, as it was sent: a path with its query, or a URL at a proxy.
    :param headers: the headers, found whatever their case.
    :param raw: all of it, byte for byte.
    """

    number: int
    connection: int
    method: str
    target: str
    headers: Message
    body: bytes
    raw: bytes


class Wire:
    """
    One connection, in the hands of an answer that is a function.

    The function may return bytes to send, with the connection left open, or ``None`` to close it.

    :param request: the request to answer, if one was read.
    :param closing: set when the server is about to close. Nothing may wait longer than for this.
    """

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self.sock = sock
        self.closing = closing
        self.request: Request | None = None

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS from here on, as after the answer to a ``CONNECT``."""
        # The handshake comes after the assignment, so that the server can end it when it closes.
        self.sock = tls = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        if self.closing.is_set():
            raise ConnectionAbortedError
        tls.do_handshake()

    def read(self) -> bytes | None:
        """Read one request with its body; ``None`` if the other side has nothing to ask, or does not speak HTTP."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            data = self.sock.recv(65536)
            if not data:
                return None
            raw += data
            if not raw[:1].isalpha():  # TLS, most likely
                self.send(answer(400, "This server speaks HTTP."))
                return None
        length = int(_headers(raw).get("Content-Length", 0))
        while len(raw.partition(b"\r\n\r\n")[2]) < length:
            data = self.sock.recv(65536)
            if not data:
                return None
            raw += data
        return raw


class Loopback:
    """
    The server, on a free port. A context manager: leaving it ends all connections at once, and whatever hangs on them.

    :param answers: the script.
    :param tls: speak TLS with this context.
    :param at_once: answer connections and not requests: each as soon as it stands, before anything is asked on it.
    """

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None, at_once: bool = False) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._answers = answers
        self._tls = tls
        self._at_once = at_once
        self._answered = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._wires: dict[Wire, threading.Thread] = {}
        self._errors: list[Exception] = []

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closing.set()
        self._wake.close()
        _join(self._accepting)
        self._woken.close()
        self._listener.close()
        with self._lock:
            left = dict(self._wires)
        for wire, thread in left.items():
            with contextlib.suppress(OSError):
                # shutdown() of a TLS socket would forget the TLS while another thread reads from it.
                socket.socket.shutdown(wire.sock, socket.SHUT_RDWR)
            _join(thread)
        if self._errors and kind is None:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._woken], [], [])
            if self._woken in ready:
                return
            sock, _ = self._listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(sock, self._closing)
            thread = threading.Thread(target=self._serve, args=(wire, self.connections), daemon=True)
            self.connections += 1
            with self._lock:
                self._wires[wire] = thread
            thread.start()

    def _serve(self, wire: Wire, connection: int) -> None:
        try:
            if self._tls:
                wire.start_tls(self._tls)
            if self._at_once:
                self._answer(wire)
                return
            while (raw := wire.read()) and self._answer(wire, raw, connection):
                pass
        except OSError:
            pass  # The other side left, or the server closes.
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the script is told where the server is left
            self._errors.append(error)
        finally:
            with self._lock:
                self._wires.pop(wire)
            wire.sock.close()

    def _answer(self, wire: Wire, raw: bytes | None = None, connection: int = 0) -> bool:
        """Answer, and tell whether the connection stays open."""
        with self._lock:
            number = self._answered
            self._answered += 1
            if raw is not None:
                method, target, _ = raw.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
                body = raw.partition(b"\r\n\r\n")[2]
                wire.request = Request(number, connection, method, target, _headers(raw), body, raw)
                self.requests.append(wire.request)
        what = self._answers[min(number, len(self._answers) - 1)]
        data = what if isinstance(what, bytes) else what(wire)
        if data is None:
            return False
        wire.send(data)
        return b"\r\nconnection: close\r\n" not in data.partition(b"\r\n\r\n")[0].lower() + b"\r\n"


class ByPath:
    """An answer by what is asked for: the last segment of the path decides which script is gone on with."""

    def __init__(self, **scripts: list[Answer]) -> None:
        self._scripts = scripts

    def __call__(self, wire: Wire) -> bytes | None:
        assert wire.request is not None
        script = self._scripts[wire.request.target.partition("?")[0].rpartition("/")[2]]
        what = script.pop(0) if len(script) > 1 else script[0]
        return what if isinstance(what, bytes) else what(wire)


def answer(status: int, body: str | bytes = b"", **headers: str) -> bytes:
    """Write an answer. An underscore in the name of a header stands for a hyphen; an empty one is left out."""
    if isinstance(body, str):
        body = body.encode()
    headers = {"Content_Length": str(len(body))} | headers
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else 'Odd'}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def json_answer(content: Any, status: int = 200, **headers: str) -> bytes:
    return answer(status, json.dumps(content), Content_Type="application/json", **headers)


def report(status: str, error_count: int = 0, job_id: str = "12345") -> bytes:
    """Write the answer to a status call."""
    return json_answer({"Id": job_id, "Status": status, "ErrorCount": error_count})


def gzipped(body: bytes, status: int = 200) -> bytes:
    return answer(status, gzip.compress(body), Content_Encoding="gzip", Content_Type="application/json")


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Write an answer in chunks."""
    head = answer(200, Content_Length="", Transfer_Encoding="chunked", Content_Type="application/json")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def cut(data: bytes = b"") -> Answer:
    """Send this much, then end the connection."""

    def act(wire: Wire) -> None:
        wire.send(data)

    return act


def reset(data: bytes = b"") -> Answer:
    """Send this much, then reset the connection."""

    def act(wire: Wire) -> None:
        wire.send(data)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return act


def hang(data: bytes = b"") -> Answer:
    """Send this much, and then nothing more."""

    def act(wire: Wire) -> None:
        wire.send(data)
        wire.closing.wait()

    return act


def drip(data: bytes, start: int = 0, every: float = 0.05) -> Answer:
    """Send what comes before ``start`` at once, and the rest byte by byte, with a pause before each."""

    def act(wire: Wire) -> bytes | None:
        wire.send(data[:start])
        for byte in data[start:]:
            if wire.closing.wait(every):
                return None
            wire.send(bytes([byte]))
        return b""

    return act


def late(data: bytes, after: float) -> Answer:
    """Let the other side wait this many seconds for the answer."""

    def act(wire: Wire) -> bytes | None:
        return None if wire.closing.wait(after) else data

    return act


def tunnel(tls: ssl.SSLContext) -> Answer:
    """Agree to a ``CONNECT``, and then be the server behind the proxy too: what is asked next comes through TLS."""

    def act(wire: Wire) -> bytes:
        wire.send(answer(200, Content_Length=""))
        wire.start_tls(tls)
        return b""

    return act


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """A URL whose port refuses connections, and is nobody else's meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def _headers(raw: bytes) -> Message:
    return http.client.parse_headers(io.BytesIO(raw.partition(b"\r\n")[2]))


def _join(thread: threading.Thread) -> None:
    thread.join(timeout=5)
    if thread.is_alive():
        raise RuntimeError("an answer of the script does not end when the server closes")
