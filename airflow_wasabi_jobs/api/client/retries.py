"""The retry policy and the limits that both clients share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_wasabi_jobs.api import responses
from airflow_wasabi_jobs.api.exceptions import InvalidResponseError, WasabiApiError

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.settings import Settings

MAX_BODY_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 64 * 1024


class Deadline:
    """When a request must be complete, including its retries and the pauses between them."""

    def __init__(self, settings: Settings) -> None:
        self._connect_timeout = settings.options.connect_timeout
        self._at = time.monotonic() + settings.total_timeout

    def postpone(self, seconds: float) -> None:
        """Add time that the request spent in a queue."""
        self._at += seconds

    def seconds_left(self) -> float:
        """Return the seconds until the deadline."""
        return self._at - time.monotonic()

    def seconds_to_read(self) -> float:
        """Return the seconds until the deadline, without those that connecting may take."""
        return self.seconds_left() - self._connect_timeout


def retry_arguments(settings: Settings, request: Request[Any], deadline: Deadline) -> dict[str, Any]:
    """Return when to retry a request, as the arguments of ``tenacity.Retrying`` and ``tenacity.AsyncRetrying``."""
    # A POST is never sent twice: if its response was lost, only its sender can find out whether the job exists.
    attempts = settings.options.retries + 1 if request.method == "GET" else 1
    return {
        "retry": tenacity.retry_if_exception(is_transient),
        "wait": _wait,
        # No attempt starts that could not end before the deadline.
        "stop": _StopAtDeadline(attempts, deadline),
        "reraise": True,
    }


class _StopAtDeadline(tenacity.stop.stop_base):
    def __init__(self, attempts: int, deadline: Deadline) -> None:
        self._attempts = attempts
        self._deadline = deadline

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= self._attempts or state.upcoming_sleep >= self._deadline.seconds_to_read()


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
