"""The intervals between the polls of a trigger."""

from __future__ import annotations

import random
from typing import Protocol

# A factor of 2**62 exceeds any max_wait, and an int beyond what a float can hold cannot be multiplied with one.
_MAX_BACKOFF_EXPONENT = 64


class Intervals(Protocol):
    """A trigger with the intervals of a sensor."""

    poke_interval: float
    exponential_backoff: bool
    max_wait: float | None


def validate_intervals(poke_interval: float, max_wait: float | None) -> None:
    """Raise ``ValueError`` for intervals that a trigger cannot wait for."""
    if poke_interval <= 0:
        raise ValueError(f"poke_interval is {poke_interval!r}, but must be more than 0 seconds.")
    if max_wait is not None and max_wait < 0:
        raise ValueError(f"max_wait is {max_wait!r}, but must not be less than 0 seconds.")


def next_interval(trigger: Intervals, poke_count: int) -> float:
    """Return the seconds until the next poll, by the rule of ``BaseSensorOperator``."""
    if not trigger.exponential_backoff:
        return trigger.poke_interval
    shortest = max(int(trigger.poke_interval * 2 ** min(poke_count - 2, _MAX_BACKOFF_EXPONENT)), 1)
    interval = float(shortest + random.randrange(shortest))  # noqa: S311 - jitter, not a secret
    return min(trigger.max_wait, interval) if trigger.max_wait else interval
