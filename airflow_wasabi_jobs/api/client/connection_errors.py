"""What an exception of requests or aiohttp means: which error to raise, and whether it is transient."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.http_exceptions
import requests
import urllib3.exceptions

from airflow_wasabi_jobs.api import exceptions, responses

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.settings import Settings

_HOST_NOT_FOUND = {socket.EAI_NONAME, socket.EAI_NODATA}
_TLS_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_UNDECODABLE = (urllib3.exceptions.DecodeError, aiohttp.http_exceptions.ContentEncodingError)
# Older versions of aiohttp do not have it.
_TOO_LARGE = tuple(filter(None, [getattr(aiohttp.http_exceptions, "DecompressSizeError", None)]))


class InterimResponseError(requests.RequestException):
    """Requests returned a response that is followed by the final one."""


def connection_error(settings: Settings, request: Request[Any], cause: BaseException) -> exceptions.WasabiApiError:
    """Return the error to raise for an exception of requests or aiohttp."""
    chain = list(_chain(cause))
    status_code = _find_proxy_status(chain)
    error_class, problem, advice = _classify_proxy_status(status_code) if status_code else _classify(chain)
    message = responses.error_message(settings, request, settings.redact(problem, request.secrets), advice)
    return error_class(message, status_code=status_code)


def _classify(chain: list[BaseException]) -> tuple[type[exceptions.WasabiApiError], str, str]:
    def find(*classes: type[BaseException]) -> BaseException | None:
        return next((link for link in chain if isinstance(link, classes)), None)

    if interim := find(InterimResponseError):
        problem = f"{interim} instead of a final response"
        return exceptions.ApiConnectionError, problem, "If this persists, use deferrable=True."
    if certificate := find(ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError):
        return (
            exceptions.TlsError,
            f"The certificate of the server is not trusted ({certificate})",
            "Check the host. For a private authority, put the path of its PEM file in 'verify' in the extra.",
        )
    # The errors of aiohttp derive from SSLError, too: the last one is that of the ssl module.
    tls = next((link for link in reversed(chain) if isinstance(link, ssl.SSLError)), None)
    if tls and not _is_transient_tls_error(tls):
        advice = "Check the host and port. If the server speaks unencrypted HTTP, put http:// before the host."
        return exceptions.TlsError, f"TLS handshake failed ({tls})", advice
    lookup = find(socket.gaierror)
    if lookup and lookup.args[0] in _HOST_NOT_FOUND:
        return exceptions.HostNotFoundError, f"Host not found ({lookup})", "Check the host and proxy of the connection."
    if find(*_TOO_LARGE):
        return exceptions.InvalidResponseError, "The response is larger than allowed", responses.CHECK_HOST
    if find(*_UNDECODABLE):
        return exceptions.InvalidResponseError, "The response body cannot be decompressed", responses.CHECK_HOST
    if lookup:
        return exceptions.ApiConnectionError, "The name server did not respond", responses.CHECK_HOST_AND_PORT
    if find(TimeoutError, requests.Timeout, urllib3.exceptions.ReadTimeoutError):
        return exceptions.ApiTimeoutError, "Request timed out", responses.CHECK_HOST_AND_PORT
    if find(requests.exceptions.ProxyError, aiohttp.ClientProxyConnectionError):
        return exceptions.ApiConnectionError, "Proxy not reachable", "If this persists, check the proxy."
    if find(ConnectionRefusedError):
        return exceptions.ApiConnectionError, "Connection refused", responses.CHECK_HOST_AND_PORT
    if _is_malformed(find(http.client.BadStatusLine, http.client.LineTooLong, aiohttp.ClientResponseError)):
        # Transient, because the parsers differ in what they tolerate, and a wait must not depend on that.
        return exceptions.ApiConnectionError, "The response is not valid HTTP", responses.CHECK_HOST
    return exceptions.ApiConnectionError, responses.CONNECTION_CLOSED, responses.CHECK_HOST_AND_PORT


def _is_transient_tls_error(error: BaseException) -> bool:
    # A server that restarts or is overloaded closes the connection, or sends this alert.
    return isinstance(error, _TLS_CLOSED) or getattr(error, "reason", None) == "TLSV1_ALERT_INTERNAL_ERROR"


def _is_malformed(error: BaseException | None) -> bool:
    # A status line without its end is one that the connection was closed in.
    is_cut = isinstance(error, http.client.BadStatusLine) and not str(error.args[0]).endswith("\n")
    return error is not None and not is_cut


def _classify_proxy_status(status_code: int) -> tuple[type[exceptions.WasabiApiError], str, str]:
    is_transient = status_code in {408, 425, 429} or status_code >= 500
    return (
        exceptions.ApiConnectionError if is_transient else exceptions.ApiStatusError,
        f"The proxy responded with HTTP {status_code}",
        "Check 'proxy' in the connection's extra, including its user and password.",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in an exception: the libraries put them in causes, contexts and arguments."""
    links, seen = [error], set[int]()
    while links:
        link = links.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            inner = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
            links += [each for each in inner if isinstance(each, BaseException)]


def _find_proxy_status(chain: list[BaseException]) -> int | None:
    for link in chain:
        if isinstance(link, aiohttp.ClientHttpProxyError):
            return link.status
        if match := re.match(r"Tunnel connection failed: (\d{3})", str(link)):
            return int(match[1])
    return None
