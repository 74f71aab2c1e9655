"""Validation of the arguments of sensors and operators, while a DAG file is parsed and when a task runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta

from airflow_wasabi_jobs.api.ids import validate_id
from airflow_wasabi_jobs.api.rendered import text_advice, to_integer
from airflow_wasabi_jobs.api.submissions import is_literal

CHECK_UPSTREAM = "If it comes from a template or XCom, check what the upstream task returned."


def validate_id_argument(field: str, value: object, kind: str, *, task_id: str) -> str:
    """Return a valid id without surrounding white space. Raise ``ValueError`` for anything else."""
    try:
        return validate_id(value, kind)
    except ValueError as error:
        if isinstance(value, Mapping) and "job_id" in value:
            advice = " Pass its ['job_id']."
        else:
            advice = text_advice(value) or f" {CHECK_UPSTREAM}"
        raise ValueError(f"{field} of task {task_id!r} {error}.{advice}") from None


def validate_integer(field: str, value: object, *, minimum: int, task_id: str) -> int:
    """Return an integer of at least ``minimum``, also from its text. Raise ``ValueError`` for anything else."""
    number = to_integer(value)
    if number is None or number < minimum:
        raise ValueError(f"{field} of task {task_id!r} is {value!r}, but must be an integer of at least {minimum}.")
    return number


def validate_optional_integer(field: str, value: object, *, minimum: int, task_id: str) -> int | None:
    """Return None or an integer of at least ``minimum``, also from its text."""
    number = to_integer(value)
    if value is not None and (number is None or number < minimum):
        raise ValueError(
            f"{field} of task {task_id!r} is {value!r}, but must be None or an integer of at least {minimum}."
        )
    return number


def refuse_templates(task_id: str | None, **arguments: object) -> None:
    """Raise ``ValueError`` if an argument that is not templated is a template or the XCom of another task."""
    for field, value in arguments.items():
        if not is_literal(value) and not isinstance(value, timedelta):
            raise ValueError(
                f"{field} of task {task_id!r} is {value!r}, but it is not templated. Pass a value that is known when "
                "the DAG file is parsed."
            )


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
