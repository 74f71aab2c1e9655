"""The retry policy and the limits that both clients share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tenacity

from airflow_wasabi_jobs.api import responses
from airflow_wasabi_jobs.api.exceptions import InvalidResponseError, WasabiApiError

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.settings import Settings

MAX_BODY_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 64 * 1024


def retry_arguments(settings: Settings, request: Request[Any]) -> dict[str, Any]:
    """Return when to retry a request, as the arguments of ``tenacity.Retrying`` and ``tenacity.AsyncRetrying``."""
    # A POST is never sent twice: if its response was lost, only its sender can find out whether the job exists.
    attempts = settings.options.retries + 1 if request.method == "GET" else 1
    return {
        "retry": tenacity.retry_if_exception(is_transient),
        "wait": _wait,
        # No attempt starts that could not end within the total timeout.
        "stop": tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(2 * settings.options.read_timeout),
        "reraise": True,
    }


def is_transient(error: BaseException) -> bool:
    """Whether an exception is a transient error of the API."""
    return isinstance(error, WasabiApiError) and error.is_transient


def check_body_size(settings: Settings, request: Request[Any], body: bytearray) -> None:
    """Raise an error if a response body is too large."""
    if len(body) > MAX_BODY_BYTES:
        raise InvalidResponseError(
            responses.error_message(
                settings, request, f"The response is larger than {MAX_BODY_BYTES} bytes", responses.CHECK_HOST
            )
        )


_backoff = tenacity.wait_exponential(multiplier=0.2, max=5) + tenacity.wait_random(0, 0.2)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    retry_after = error.retry_after if isinstance(error, WasabiApiError) else None
    return max(retry_after or 0.0, _backoff(state))
