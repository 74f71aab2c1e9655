"""The metric of how long a deferred wait took."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from airflow_wasabi_jobs import metrics

if TYPE_CHECKING:
    from airflow.triggers.base import TriggerEvent


async def measure(wait: Coroutine[Any, Any, TriggerEvent]) -> TriggerEvent:
    """Return the event of a wait, and record how long it took by its outcome."""
    started_at = time.monotonic()
    event = await wait
    match event.payload:
        case {"error": _}:
            outcome = "error"
        case {"status": status}:
            outcome = status
        case {"batch": _}:
            outcome = "finished"
        case _:
            outcome = "completed"
    metrics.record_duration(f"deferred_wait.{outcome}", time.monotonic() - started_at)
    return event
