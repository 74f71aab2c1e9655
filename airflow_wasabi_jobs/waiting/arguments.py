"""Validation of the arguments of sensors and operators, while a DAG file is parsed and when a task runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta

from airflow_wasabi_jobs.api.ids import validate_id

CHECK_UPSTREAM = "If it comes from a template or XCom, check what the upstream task returned."


def validate_id_argument(field: str, value: object, kind: str, *, task_id: str) -> str:
    """Return a valid id without surrounding white space. Raise ``ValueError`` for anything else."""
    try:
        return validate_id(value, kind)
    except ValueError as error:
        advice = "Pass its ['job_id']." if isinstance(value, Mapping) and "job_id" in value else CHECK_UPSTREAM
        raise ValueError(f"{field} of task {task_id!r} {error}. {advice}") from None


def validate_integer(field: str, value: object, *, minimum: int, optional: bool, task_id: str) -> None:
    """Raise ``ValueError`` unless a value is an integer of at least ``minimum``, or None if it is optional."""
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        allowed = f"{'None or ' if optional else ''}an integer of at least {minimum}"
        raise ValueError(f"{field} of task {task_id!r} is {value!r}, but must be {allowed}.")


def to_seconds(duration: timedelta | float) -> float:
    """Return a duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def validate_seconds(field: str, value: object, *, task_id: str) -> None:
    """Raise ``ValueError`` unless a value is a duration of 0 seconds or more."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
        raise ValueError(f"{field} of task {task_id!r} is {value!r}, but must be a number of seconds, 0 or more.")


def validate_poke_interval(seconds: float, *, deferrable: bool, task_id: str) -> None:
    """Raise ``ValueError`` for an interval that a sensor or a trigger cannot wait for."""
    if not math.isfinite(seconds):
        raise ValueError(f"poke_interval of task {task_id!r} is {seconds!r}, but must be a number of seconds.")
    if deferrable and seconds <= 0:
        raise ValueError(
            f"poke_interval of task {task_id!r} is {seconds!r}, but must be more than 0 with deferrable=True."
        )
