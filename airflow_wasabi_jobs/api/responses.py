"""What an HTTP response means: its result, or the error to raise and its message."""

from __future__ import annotations

import http
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from airflow_wasabi_jobs.api import exceptions
from airflow_wasabi_jobs.api.redaction import excerpt

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints.request import Request
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

MAX_RETRY_AFTER_SECONDS = 1e9  # a number that JSON can carry, unlike infinity
CHECK_KEYS = "Check the access key (login) and secret key (password) of the connection."
CONNECTION_CLOSED = "Connection closed before the response was complete"
CHECK_HOST_AND_PORT = "If this persists, check the host and port."
CHECK_HOST = (
    "Check that the host is the base URL of the AiR Jobs API, and that no proxy or login page responds instead."
)

_RATE_LIMIT = re.compile(r"rate[\s_-]*limit|throttl|too[\s_-]*many[\s_-]*requests|slow[\s_-]*down", re.IGNORECASE)


class Response(msgspec.Struct, frozen=True):
    """
    An HTTP response.

    :param status_code: the HTTP status.
    :param headers: the headers; their names are case-insensitive.
    :param body: the complete body, decompressed.
    """

    status_code: int
    headers: Mapping[str, str]
    body: bytes


class _ErrorBody(msgspec.Struct):
    Error: str | None = None
    ErrorCode: str | None = None


def parse_response(settings: Settings, request: Request[T], response: Response) -> T:
    """
    Return the result of a response.

    :raises WasabiApiError: if its status is not 200, or its body is not what the API documents.
    """
    if response.status_code != 200:
        raise _status_error(settings, request, response)
    try:
        return request.parse_body(response.body, lambda text: settings.redact(text, request.secrets))
    except (ValueError, msgspec.MsgspecError, RecursionError) as cause:
        if _is_truncated(response, cause):
            raise exceptions.ApiConnectionError(
                error_message(settings, request, CONNECTION_CLOSED, CHECK_HOST_AND_PORT)
            ) from redact_cause(settings, request, cause)
        text = _excerpt(settings, request, response.body.decode(errors="replace"))
        problem = (
            f"The response is not what the API documents ({_excerpt(settings, request, str(cause))}). "
            f"It begins with: {text!r}"
        )
        raise exceptions.InvalidResponseError(
            error_message(settings, request, problem, CHECK_HOST), status_code=response.status_code, text=text
        ) from redact_cause(settings, request, cause)


def error_message(settings: Settings, request: Request[Any], problem: str, advice: str) -> str:
    """Return the message of an error: which request on which connection, what happened, what to do next."""
    return f"{request.error_prefix} ({settings.name}): {problem}. {advice}"


def redact_cause(settings: Settings, request: Request[Any], cause: BaseException | None) -> BaseException | None:
    """Return the cause of an error without those exceptions of its chain whose text or repr holds a secret."""
    if cause is None:
        return None
    deeper = cause.__cause__ or cause.__context__
    text = f"{cause!r} {cause}"
    if settings.redact(text, request.secrets) != text or redact_cause(settings, request, deeper) is not deeper:
        return redact_cause(settings, request, deeper)
    return cause


def _status_error(settings: Settings, request: Request[Any], response: Response) -> exceptions.WasabiApiError:
    code = response.status_code
    error_code, text = _parse_error(settings, request, response)
    error_class: type[exceptions.WasabiApiError]
    match code:
        # Storage services throttle with a 400, so the API in front of them may, too.
        case _ if code == 429 or (code == 400 and _is_rate_limit(response)):
            error_class, advice = exceptions.RateLimitError, "If this persists, raise poke_interval."
        case 400:
            error_class, advice = exceptions.BadRequestError, "Correct the arguments that the API rejects."
        case 401:
            error_class = exceptions.AuthenticationError
            advice = CHECK_KEYS
        case 403:
            error_class = exceptions.PermissionDeniedError
            advice = f"The user of these keys needs the IAM policy {request.policy}."
        case 404:
            error_class, advice = exceptions.NotFoundError, request.not_found_advice
        case 407:
            error_class = exceptions.ApiStatusError
            advice = "Put the user and password of the proxy in 'proxy' in the connection's extra."
        case _ if code in {408, 425} or code >= 500:
            error_class, advice = exceptions.ServerError, "If this persists, contact Wasabi support."
        case _ if 300 <= code < 400:
            error_class = exceptions.RedirectError
            advice = "Redirects are not followed, to protect your keys. Use the target URL as host."
        case _ if 400 <= code < 500:
            error_class, advice = (
                exceptions.ApiStatusError,
                "Check the host, and any gateway in front of the API.",
            )
        case _:
            error_class, advice = exceptions.InvalidResponseError, f"Only HTTP 200 is expected. {CHECK_HOST}"
    return error_class(
        error_message(settings, request, _describe_status(code, error_code, text), advice),
        status_code=code,
        error_code=error_code,
        text=text,
        retry_after=_parse_retry_after(response.headers),
    )


def _describe_status(code: int, error_code: str | None, text: str | None) -> str:
    try:
        phrase = http.HTTPStatus(code).phrase
    except ValueError:
        phrase = ""
    details = [repr(text)] if text and text.casefold() != phrase.casefold() else []
    if error_code and error_code.replace("_", " ").casefold() != phrase.casefold():
        details.insert(0, error_code)
    return f"HTTP {code} {phrase}".rstrip() + (f" ({': '.join(details)})" if details else "")


def _parse_error(settings: Settings, request: Request[Any], response: Response) -> tuple[str | None, str | None]:
    try:
        body = msgspec.json.decode(response.body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None, _excerpt(settings, request, response.body.decode(errors="replace")) or None
    return (
        _excerpt(settings, request, body.ErrorCode or "") or None,
        _excerpt(settings, request, body.Error or "") or None,
    )


def _is_rate_limit(response: Response) -> bool:
    return _RATE_LIMIT.search(response.body.decode(errors="replace")) is not None


def _is_truncated(response: Response, cause: Exception) -> bool:
    # Without a length, nothing but its JSON shows that a body was cut.
    is_delimited = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    return not is_delimited and isinstance(cause, msgspec.DecodeError) and "truncated" in str(cause)


def _excerpt(settings: Settings, request: Request[Any], text: str) -> str:
    return excerpt(settings.redact(text, request.secrets))


def _parse_retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return None if math.isnan(seconds) else min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)
