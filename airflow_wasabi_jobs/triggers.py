"""The waits of the sensors, inside the triggerer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.story import Story

LONGEST_PAUSE = 15 * 60.0


class WasabiJobTrigger(BaseTrigger):
    """
    Waits for a Wasabi AiR job and fires once, when the job is final or can't be asked for.

    The event of a final job is its report, ``{"job_id", "status", "error_count"}``, whatever the status.
    The event of an error that ends the wait is ``{"job_id", "error"}``, for
    :func:`airflow_wasabi_jobs.api.errors.from_event`. Passing trouble fires nothing: the wait goes on.

    The first look comes after the first interval: who defers to this trigger has just looked.

    :param job_id: the job's id.
    :param wasabi_conn_id: the connection's id. The keys themselves are no argument: they never leave the connection.
    :param poke_interval: seconds between two looks, more than 0.
    :param exponential_backoff: whether the intervals grow, as a sensor's with the same argument do.
    :param max_wait: the longest interval in seconds, if they grow. Default: no limit.
    :raises ValueError: if an interval is not positive.
    """

    def __init__(
        self,
        job_id: str,
        wasabi_conn_id: str,
        poke_interval: float,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own, and untyped
        if poke_interval <= 0:
            raise ValueError(f"poke_interval must be more than 0 seconds, not {poke_interval!r}")
        if max_wait is not None and max_wait < 0:
            raise ValueError(f"max_wait must not be less than 0 seconds, but is {max_wait!r}")
        self.job_id = job_id
        self.wasabi_conn_id = wasabi_conn_id
        self.poke_interval = poke_interval
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and the arguments that make this trigger again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "job_id": self.job_id,
                "wasabi_conn_id": self.wasabi_conn_id,
                "poke_interval": self.poke_interval,
                "exponential_backoff": self.exponential_backoff,
                "max_wait": self.max_wait,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the job at each interval until there is something to tell."""
        import msgspec

        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        hook = WasabiJobsHook(self.wasabi_conn_id)
        story = Story(self.log, self.job_id)
        poke_count, asked_pause = 1, 0.0
        while True:
            await asyncio.sleep(max(self._interval(poke_count), asked_pause))
            poke_count, asked_pause = poke_count + 1, 0.0
            try:
                report = await hook.aget_job_status(self.job_id)
            except errors.AirError as error:
                if not error.is_passing:
                    yield TriggerEvent({"job_id": self.job_id, "error": errors.to_event(error)})
                    return
                story.troubled(error)
                asked_pause = min(error.retry_after or 0.0, LONGEST_PAUSE)
                continue
            story.answered(report)
            if report.status.is_final:
                yield TriggerEvent(msgspec.to_builtins(report))
                return

    def _interval(self, poke_count: int) -> float:
        """Return the seconds to wait after that many looks, by the rule of ``BaseSensorOperator``."""
        if not self.exponential_backoff:
            return self.poke_interval
        # Airflow doubles without end, too, but an int would outgrow what a float can be multiplied with.
        shortest = max(int(self.poke_interval * 2 ** min(poke_count - 2, 64)), 1)
        interval = float(shortest + random.randrange(shortest))  # noqa: S311 - spreads the looks, guards nothing
        return min(self.max_wait, interval) if self.max_wait else interval
