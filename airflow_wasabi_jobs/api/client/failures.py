"""What it means that no whole answer came, and whether the next try may fare better."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.http_exceptions
import requests
import urllib3.exceptions

from airflow_wasabi_jobs.api import answers, calls, errors

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.settings import Settings


def no_answer(settings: Settings, call: calls.Call[Any], cause: BaseException) -> errors.AirError:
    """Return the error that says why no whole answer came, of a class that says whether this may pass."""
    chain = list(_chain(cause))

    def found(*kinds: type[BaseException]) -> BaseException | None:
        return next((link for link in chain if isinstance(link, kinds)), None)

    def say(kind: type[errors.AirError], what: str, advice: str, status_code: int | None = None) -> errors.AirError:
        return kind(
            answers.message(settings, call, settings.scrub(what, call.secrets), advice), status_code=status_code
        )

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
    if (tls := found(ssl.SSLError)) and not isinstance(tls, _TLS_CUT):
        advice = "Check host and port; if plain http is spoken there, write http:// in front of the host."
        return say(errors.NoAnswer, f"no TLS was agreed on ({tls})", advice)
    if (lookup := found(socket.gaierror)) and lookup.args[0] in _NO_SUCH_HOST:
        return say(errors.NoAnswer, f"there is no such host ({lookup})", "Check the connection's host and proxy.")
    if found(*_TOO_LONG):
        return say(
            errors.UnexpectedAnswer,
            "the answer is longer than an answer can be",
            "Check that host is the address of an AiR Jobs API.",
        )
    if found(*_NOT_HTTP) or (found(http.client.HTTPException) and not found(*_CUT)):
        return say(
            errors.UnexpectedAnswer,
            "what came back is not HTTP",
            "Check that host is the address of an AiR Jobs API.",
        )
    return say(errors.PassingNoAnswer, _what_passed(found), "This may pass; if it does not, check host and port.")


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
_TLS_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CUT = (http.client.RemoteDisconnected, http.client.IncompleteRead)
# Not in all versions of aiohttp.
_TOO_LONG = tuple(filter(None, [getattr(aiohttp.http_exceptions, "DecompressSizeError", None)]))
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
