"""Validation of the arguments of the event trigger. Imports only the standard library: DAG files are parsed with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from airflow_wasabi_jobs.api.submissions import MAX_TEXT_LENGTH

TERMINAL_STATUSES = ("completed", "failed", "cancelled")


def validate_text(name: str, value: object) -> None:
    """Raise ``ValueError`` unless a value is None or a text that the API can store."""
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= MAX_TEXT_LENGTH):
        raise ValueError(f"{name} is {value!r}, but must be None or a text of 1 to {MAX_TEXT_LENGTH} characters.")


def validate_statuses(statuses: Sequence[str]) -> None:
    """Raise ``ValueError`` unless all of the statuses are terminal, and there is one."""
    if isinstance(statuses, str) or not statuses or not set(statuses) <= set(TERMINAL_STATUSES):
        raise ValueError(f"statuses is {statuses!r}, but must be a list of {', '.join(TERMINAL_STATUSES)}.")


def validate_seconds(name: str, value: object, *, is_zero_allowed: bool) -> None:
    """Raise ``ValueError`` unless a value is a finite number of seconds."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (value == 0 and not is_zero_allowed):  # type: ignore[operator] # is a number
        limit = "of at least 0" if is_zero_allowed else "of more than 0"
        raise ValueError(f"{name} is {value!r}, but must be a number {limit} seconds.")
