"""
A scripted HTTP server on the loopback interface, which can also break the protocol or the connection.

::

    with Loopback(response(503), status_response("completed")) as server:
        poll(server.url)
    assert [request.target for request in server.requests] == ["/jobs/12345/status"] * 2

The n-th request gets the n-th response, on whichever connection it arrives; the last response is repeated. A response
is the bytes to send (the connection stays open unless they contain ``Connection: close``), or a function that receives
the :class:`ServerConnection`.
"""

from __future__ import annotations

import contextlib
import gzip
import http
import http.client
import io
import json
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any, Self

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)

Response = bytes | Callable[["ServerConnection"], bytes | None]


@dataclass(frozen=True)
class Request:
    """
    A request as the server received it.

    :param number: index of the request at this server, from 0.
    :param connection_number: index of the connection, from 0.
    :param target: request target as sent: a path with its query, or a URL at a proxy.
    :param raw: the complete request, byte for byte.
    """

    number: int
    connection_number: int
    method: str
    target: str
    body: bytes
    raw: bytes

    @property
    def headers(self) -> Message:
        """The headers; names are case-insensitive."""
        return http.client.parse_headers(io.BytesIO(self.raw.partition(b"\r\n")[2]))


class ServerConnection:
    """
    One accepted connection, passed to a response that is a function.

    The function returns bytes to send (the connection stays open), or ``None`` to close the connection.

    :param request: the request to respond to, if one was read.
    :param closing: set when the server shuts down. A response must not wait for longer.
    """

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self.sock = sock
        self.closing = closing
        self.request: Request | None = None

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Switch to TLS, e.g. after the response to a ``CONNECT``."""
        # Assign before the handshake, so that the server can end the handshake when it shuts down.
        self.sock = tls = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        if self.closing.is_set():
            raise ConnectionAbortedError
        tls.do_handshake()

    def read(self) -> bytes | None:
        """Read one request with its body; ``None`` if the client closed the connection or does not speak HTTP."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            data = self.sock.recv(65536)
            if not data:
                return None
            raw += data
            if not raw[:1].isalpha():  # TLS, most likely
                self.send(response(400, "This server speaks HTTP."))
                return None
        head = raw.partition(b"\r\n\r\n")[0]
        content_length = _CONTENT_LENGTH.search(head)
        size = len(head) + 4 + (int(content_length[1]) if content_length else 0)
        while len(raw) < size:
            data = self.sock.recv(65536)
            if not data:
                return None
            raw += data
        return raw


class Loopback:
    """
    The server, on a free port. A context manager: leaving it closes all connections at once.

    :param responses: the script.
    :param tls: serve TLS with this context.
    :param respond_on_connect: respond to each connection as soon as it is accepted, without reading a request.
    """

    def __init__(
        self, *responses: Response, tls: ssl.SSLContext | None = None, respond_on_connect: bool = False
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._responses = responses
        self._tls = tls
        self.respond_on_connect_ = respond_on_connect
        self._response_count = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[ServerConnection, threading.Thread] = {}
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
            left = dict(self._connections)
        for connection, thread in left.items():
            with contextlib.suppress(OSError):
                # shutdown() of a TLS socket would forget the TLS while another thread reads from it.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
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
            connection = ServerConnection(sock, self._closing)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            self.connections += 1
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: ServerConnection, connection_number: int) -> None:
        try:
            if self._tls:
                connection.start_tls(self._tls)
            if self.respond_on_connect_:
                self._respond(connection)
                return
            while (raw := connection.read()) and self._respond(connection, raw, connection_number):
                pass
        except OSError:
            pass  # The client disconnected, or the server shuts down.
        except Exception as error:  # noqa: BLE001 - a bug in the script is raised when the server is left
            self._errors.append(error)
        finally:
            with self._lock:
                self._connections.pop(connection)
            connection.sock.close()

    def _respond(self, connection: ServerConnection, raw: bytes | None = None, connection_number: int = 0) -> bool:
        """Send the next response; return whether the connection stays open."""
        with self._lock:
            number = self._response_count
            self._response_count += 1
            if raw is not None:
                method, target, _ = raw.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
                body = raw.partition(b"\r\n\r\n")[2]
                connection.request = Request(number, connection_number, method, target, body, raw)
                self.requests.append(connection.request)
        next_response = self._responses[min(number, len(self._responses) - 1)]
        data = next_response if isinstance(next_response, bytes) else next_response(connection)
        if data is None:
            return False
        connection.send(data)
        return b"\r\nconnection: close\r\n" not in data.partition(b"\r\n\r\n")[0].lower() + b"\r\n"


class ByPath:
    """One script for each endpoint: the last segment of the path selects it."""

    def __init__(self, **scripts: list[Response]) -> None:
        self._scripts = scripts

    def __call__(self, connection: ServerConnection) -> bytes | None:
        assert connection.request is not None
        script = self._scripts[connection.request.target.partition("?")[0].rpartition("/")[2]]
        next_response = script.pop(0) if len(script) > 1 else script[0]
        return next_response if isinstance(next_response, bytes) else next_response(connection)


def response(status: int, body: str | bytes = b"", **headers: str) -> bytes:
    """Build a response. An underscore in a header name becomes a hyphen; a header with an empty value is omitted."""
    if isinstance(body, str):
        body = body.encode()
    headers = {"Content_Length": str(len(body))} | headers
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else 'Odd'}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def json_response(content: Any, status: int = 200, **headers: str) -> bytes:
    return response(status, json.dumps(content), Content_Type="application/json", **headers)


def status_response(status: str, error_count: int = 0, job_id: str = "12345") -> bytes:
    """Build the response of the status endpoint."""
    return json_response({"Id": job_id, "Status": status, "ErrorCount": error_count})


def gzipped(body: bytes, status: int = 200) -> bytes:
    return response(status, gzip.compress(body), Content_Encoding="gzip", Content_Type="application/json")


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Build a response with ``Transfer-Encoding: chunked``."""
    head = response(200, Content_Length="", Transfer_Encoding="chunked", Content_Type="application/json")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def cut(data: bytes = b"") -> Response:
    """Send this data, then close the connection."""

    def act(connection: ServerConnection) -> None:
        connection.send(data)

    return act


def reset(data: bytes = b"") -> Response:
    """Send this data, then reset the connection."""

    def act(connection: ServerConnection) -> None:
        connection.send(data)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return act


def hang(data: bytes = b"") -> Response:
    """Send this data, then stay silent with the connection open."""

    def act(connection: ServerConnection) -> None:
        connection.send(data)
        connection.closing.wait()

    return act


def drip(data: bytes, start: int = 0, every: float = 0.05) -> Response:
    """Send everything before ``start`` at once, and the rest byte by byte, with a pause before each byte."""

    def act(connection: ServerConnection) -> bytes | None:
        connection.send(data[:start])
        for byte in data[start:]:
            if connection.closing.wait(every):
                return None
            connection.send(bytes([byte]))
        return b""

    return act


def delayed(data: bytes, after: float) -> Response:
    """Send the response after this many seconds."""

    def act(connection: ServerConnection) -> bytes | None:
        return None if connection.closing.wait(after) else data

    return act


def tunnel(tls: ssl.SSLContext) -> Response:
    """Accept a ``CONNECT``, then act as the server behind the proxy: later requests come through TLS."""

    def act(connection: ServerConnection) -> bytes:
        connection.send(response(200, Content_Length=""))
        connection.start_tls(tls)
        return b""

    return act


@contextlib.contextmanager
def refused_url() -> Iterator[str]:
    """A URL whose port refuses connections, reserved while the context is open."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def _join(thread: threading.Thread) -> None:
    thread.join(timeout=5)
    if thread.is_alive():
        raise RuntimeError("a response of the script does not end when the server shuts down")
