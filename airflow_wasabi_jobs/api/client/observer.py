"""The hook point for metrics: a client reports the outcome of each request that it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow_wasabi_jobs.api import exceptions

Observer = Callable[[str], object]


@contextmanager
def observing(observe: Observer | None) -> Iterator[None]:
    """Report the outcome of the request in the block. A request that is cancelled has none."""
    try:
        yield
    except exceptions.WasabiApiError as error:
        if observe:
            observe(_outcome_of(error))
        raise
    if observe:
        observe("succeeded")


def _outcome_of(error: exceptions.WasabiApiError) -> str:
    match error:
        case exceptions.RateLimitError():
            return "rate_limited"
        case exceptions.ServerError():
            return "server_error"
        case exceptions.ApiStatusError():
            return "rejected"
        case exceptions.ApiTimeoutError():
            return "timed_out"
        case exceptions.ApiConnectionError():
            return "connection_failed"
        case _:
            return "invalid_response"
