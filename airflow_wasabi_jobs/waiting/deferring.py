"""How a task defers to a trigger, and how it learns that the trigger has timed out."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_wasabi_jobs import metrics

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.triggers.base import BaseTrigger

    from airflow_wasabi_jobs.waiting.wait import Wait

# What the scheduler of Airflow 3, and that of 2.11, passes to a deferred task whose trigger has timed out.
_TRIGGER_TIMEOUTS = {"Trigger timeout", "Trigger/execution timeout"}


def defer_until(
    task: BaseOperator, wait: Wait, trigger: BaseTrigger, *, poke_interval: float, timeout_at: float
) -> NoReturn:
    """
    Defer a task, which resumes with ``execute_complete(context, event, timeout_at)``.

    :param poke_interval: seconds between two polls, for the log.
    :param timeout_at: when the wait times out, in seconds since the epoch.
    :raises AirflowSensorTimeout: if it has timed out already.
    """
    seconds_left = timeout_at - time.time()
    if seconds_left <= 0:
        raise wait.timeout_error()
    wait.log_start("the triggerer", poke_interval, timeout_at)
    metrics.count("deferred_waits")
    task.defer(
        trigger=trigger,
        method_name="execute_complete",
        kwargs={"timeout_at": timeout_at},
        timeout=timedelta(seconds=seconds_left),
    )
    raise AssertionError("defer() does not return")


def is_trigger_timeout(next_method: str, next_kwargs: dict[str, Any] | None) -> bool:
    """Whether a deferred task resumes because its trigger has timed out."""
    return next_method == "__fail__" and (next_kwargs or {}).get("error") in _TRIGGER_TIMEOUTS
