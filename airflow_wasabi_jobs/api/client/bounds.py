"""The bounds that requests and aiohttp lack: on connecting, on a whole answer, on what they do of their own accord."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

import aiohttp
import requests
import requests.adapters
import urllib3.connection
import urllib3.exceptions


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

    def _read_status(self) -> Any:
        try:
            told = super()._read_status()  # type: ignore[misc] # not in the stubs
            # An answer may come after 103 Early Hints and the like. http.client itself passes over 100 only.
            while 101 < told[1] < 200:
                http.client.parse_headers(self.fp)
                told = super()._read_status()  # type: ignore[misc] # the same
        except http.client.BadStatusLine:
            if self._clocked.ended:
                raise http.client.RemoteDisconnected("the answer ended within its first line") from None
            raise
        return told


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

    def _new_conn(self) -> socket.socket:
        """Connect, so that the time-out is for all addresses, and for the proxy's answer and TLS after that."""
        self._deadline = deadline = time.monotonic() + float(self.timeout or 0)
        try:
            addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as cause:
            raise urllib3.exceptions.NameResolutionError(self.host, self, cause) from cause
        failed: OSError = TimeoutError("timed out")
        for more, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as cause:  # a kind of address that this machine can't speak to
                failed = cause
                continue
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(max(0.001, (deadline - time.monotonic()) / more))
                sock.connect(address)
            except OSError as cause:
                sock.close()
                failed = cause
            else:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                return sock
        raise urllib3.exceptions.NewConnectionError(self, f"Failed to establish a new connection: {failed}") from failed

    def _tunnel(self) -> None:
        super()._tunnel()
        self.sock.settimeout(max(0.001, self._deadline - time.monotonic()))


class _HTTPSConnection(_HTTPConnection, urllib3.connection.HTTPSConnection):
    """The same with TLS."""


class BoundedSession(requests.Session):
    """Looks at no redirect: requests would read the whole body first, and stumble over what is no URL."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002, D102 - as in requests
        return None


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """Makes the time-outs of requests, which are for each address and each piece, ones for all of them together."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - as in requests
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _HTTPSConnection if pool.scheme == "https" else _HTTPConnection
        return pool


class BoundedConnector(aiohttp.TCPConnector):
    """Ends a connection on which something went wrong at once: a silent server would not answer to good manners."""

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        if (should_close or protocol.should_close) and protocol.transport is not None:
            protocol.transport.abort()
        super()._release(key, protocol, should_close=should_close)
