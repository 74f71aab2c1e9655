"""
The exceptions of this package.

::

    AirflowFailException (Airflow)
    ├── WasabiJobFailed              the job failed, or completed with more errors than ``max_error_count``
    ├── WasabiJobCancelled           the job was cancelled
    └── WasabiBatchFailed            more jobs of the batch failed or were cancelled than ``max_failures``

    WasabiApiError                   a request to the API failed
    ├── ConnectionConfigError        the Airflow connection cannot be used; nothing was sent
    ├── ApiConnectionError         * refused, reset, closed early, proxy or name server unavailable
    │   ├── ApiTimeoutError        * no complete response in time
    │   ├── HostNotFoundError        the host does not exist
    │   └── TlsError                 the TLS handshake failed, or the certificate is not trusted
    ├── ApiStatusError               an HTTP status other than 200
    │   ├── RedirectError            3xx: redirects are not followed, to protect the keys
    │   ├── BadRequestError          400
    │   ├── AuthenticationError      401: wrong keys
    │   ├── PermissionDeniedError    403: the user lacks a policy
    │   ├── NotFoundError            404: no such job, or not the AiR Jobs API
    │   ├── RateLimitError         * 429, or a 400 that reports a rate limit
    │   └── ServerError            * 5xx, 408, 425
    └── InvalidResponseError         the response is not what the API documents

    ResultReadError                  the file of a result is missing or cannot be read

The first three are final, because the status of a finished job does not change: Airflow does not retry them, and
``soft_fail=True`` skips the task. A :class:`WasabiApiError` or a :class:`ResultReadError` fails the task with
its retries, and ``soft_fail`` does not skip it. The errors with a ``*`` are transient and do not end a wait.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_wasabi_jobs.api.exceptions import (
    ApiConnectionError,
    ApiStatusError,
    ApiTimeoutError,
    AuthenticationError,
    BadRequestError,
    ConnectionConfigError,
    HostNotFoundError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RedirectError,
    ServerError,
    TlsError,
    WasabiApiError,
)

__all__ = [
    "ApiConnectionError",
    "ApiStatusError",
    "ApiTimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "ConnectionConfigError",
    "HostNotFoundError",
    "InvalidResponseError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RedirectError",
    "ResultReadError",
    "ServerError",
    "TlsError",
    "WasabiApiError",
    "WasabiBatchFailed",
    "WasabiJobCancelled",
    "WasabiJobFailed",
]


class WasabiJobFailed(AirflowFailException):
    """The job failed, or completed with more errors than ``max_error_count`` allows."""


class WasabiJobCancelled(AirflowFailException):
    """The job was cancelled."""


class WasabiBatchFailed(AirflowFailException):
    """More jobs of the batch failed or were cancelled than ``max_failures`` allows."""


class ResultReadError(Exception):
    """The result of a job cannot be read: its file is missing, too large or not JSON, or access is denied."""
