"""
Errors of requests to the AiR Jobs API. :mod:`airflow_wasabi_jobs.exceptions` shows them as a tree.

None of these classes derives from ``AirflowException``, because a deferred sensor with ``soft_fail=True`` skips any
``AirflowException``, and a configuration error must not be skipped.
"""

from __future__ import annotations

from typing import Any, ClassVar


class WasabiApiError(Exception):
    """
    A request to the AiR Jobs API failed.

    :param message: what happened, to which job and connection, and what to do next.
    :param status_code: the HTTP status of the response, if there was one.
    :param error_code: the ``ErrorCode`` in the response, such as ``NOT_FOUND``.
    :param text: the ``Error`` in the response, or the beginning of its body.
    :param retry_after: seconds that the response asks to wait before the next request.
    """

    is_transient: ClassVar[bool] = False
    """Whether the error may go away by itself."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        error_code: str | None = None,
        text: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.error_code = error_code
        self.text = text
        self.retry_after = retry_after


class ConnectionConfigError(WasabiApiError):
    """The Airflow connection does not exist or cannot be used. Nothing was sent."""


class ApiConnectionError(WasabiApiError):
    """No complete response was received: the connection was refused, reset or closed early. Transient."""

    is_transient = True


class ApiTimeoutError(ApiConnectionError):
    """No complete response was received within the timeout. Transient."""


class HostNotFoundError(ApiConnectionError):
    """The host of the connection does not exist. Permanent."""

    is_transient = False


class TlsError(ApiConnectionError):
    """The TLS handshake failed, or the certificate is not trusted. Permanent."""

    is_transient = False


class ApiStatusError(WasabiApiError):
    """The API, or a gateway or proxy in front of it, rejected the request. Permanent."""


class RedirectError(ApiStatusError):
    """The response is a redirect (3xx). It is not followed, because the keys would be sent to another host."""


class BadRequestError(ApiStatusError):
    """The API rejected the content of the request (400)."""


class AuthenticationError(ApiStatusError):
    """The API did not accept the keys (401)."""


class PermissionDeniedError(ApiStatusError):
    """The API accepted the keys, but they do not permit the request (403)."""


class NotFoundError(ApiStatusError):
    """The job does not exist, or the host does not serve the AiR Jobs API (404)."""


class RateLimitError(ApiStatusError):
    """Too many requests (429, or a 400 that reports a rate limit). Transient."""

    is_transient = True


class ServerError(ApiStatusError):
    """The API, or a gateway in front of it, has a problem (5xx, 408, 425). Transient."""

    is_transient = True


class InvalidResponseError(WasabiApiError):
    """The response is not what the API documents: not JSON, another job, an unknown status, too large."""


def serialize_error(error: WasabiApiError) -> dict[str, Any]:
    """Return an error as a plain dict, for the event of a trigger."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "status_code": error.status_code,
        "error_code": error.error_code,
        "text": error.text,
        "retry_after": error.retry_after,
    }


def deserialize_error(event: dict[str, Any]) -> WasabiApiError:
    """Return the error of a dict that :func:`serialize_error` made, as an instance of the same class."""
    details = dict(event)
    classes = {cls.__name__: cls for cls in _with_subclasses(WasabiApiError)}
    cls = classes.get(details.pop("type"), WasabiApiError)
    return cls(details.pop("message"), **details)


def _with_subclasses(cls: type[WasabiApiError]) -> set[type[WasabiApiError]]:
    return {cls}.union(*(_with_subclasses(subclass) for subclass in cls.__subclasses__()))
