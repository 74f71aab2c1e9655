"""The progress of a batch of files, for the log."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """
    Measures how fast files are done, and estimates the time left.

    :param total: the number of files.
    :param verb: what is counted, such as ``done``.
    :param clock: returns the time in seconds.
    """

    def __init__(self, total: int, verb: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._verb = verb
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def describe(self, done: int, failed: int = 0) -> str:
        """Return for example ``3,210 of 10,000 files done (12 failed), 96 per minute, about 71 minutes left``."""
        now = self._clock()
        if self._first is None:
            self._first = now, done
        text = f"{done:,} of {self._total:,} files {self._verb}" + (f" ({failed:,} failed)" if failed else "")
        started_at, done_at_start = self._first
        if done <= done_at_start or now <= started_at:
            return text
        per_minute = (done - done_at_start) / (now - started_at) * 60
        text += f", {per_minute:,.0f} per minute" if per_minute >= 1 else f", {per_minute:.1g} per minute"
        if done >= self._total:
            return text
        return f"{text}, about {_describe_minutes((self._total - done) / per_minute)} left"


def _describe_minutes(minutes: float) -> str:
    if minutes >= 120:
        return f"{minutes / 60:,.0f} hours"
    whole = max(1, round(minutes))
    return f"{whole} minute{'' if whole == 1 else 's'}"
