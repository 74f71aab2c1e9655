"""The metrics of the package, which go where Airflow's own go: StatsD, Datadog or OpenTelemetry."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")


def count(name: str, number: int = 1) -> None:
    """Increment a counter."""
    if stats := find_stats():
        stats.incr(f"wasabi_jobs.{name}", number)


def record_duration(name: str, seconds: float) -> None:
    """Record how long something took."""
    if stats := find_stats():
        stats.timing(f"wasabi_jobs.{name}", timedelta(seconds=seconds))


def count_request(outcome: str) -> None:
    """Count a request by its outcome. Clients call it after each request."""
    count(f"requests.{outcome}")


@cache
def find_stats() -> Any:
    """Return Airflow's metrics, or None if they are disabled. The first call may look up a host."""
    from airflow.providers.common.compat.sdk import Stats, conf

    if not any(conf.getboolean("metrics", switch, fallback=False) for switch in _SWITCHES):
        return None
    # Connects, and records nothing.
    Stats.timer()
    return Stats
