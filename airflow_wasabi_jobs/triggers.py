"""The waits of the sensors, inside the triggerer."""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.story import SIGN_OF_LIFE, Story

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.batches import BatchReport
    from airflow_wasabi_jobs.api.models import JobReport
    from airflow_wasabi_jobs.watch import Seat


_LOADED = {"airflow_wasabi_jobs.hooks", "airflow_wasabi_jobs.watch"}


class WasabiJobTrigger(BaseTrigger):
    """
    Waits for a Wasabi AiR job and fires once, when the job is final or can't be asked for.

    The event of a final job is its report, ``{"job_id", "status", "error_count"}``, whatever the status.
    The event of an error that ends the wait is ``{"job_id", "error"}``, for
    :func:`airflow_wasabi_jobs.api.errors.from_event`. Passing trouble fires nothing: the wait goes on.

    Waits of the same ``poke_interval`` are looked at together, so the first look comes after half an interval
    to one and a half, and never at once: who defers to this trigger has just looked.

    :param job_id: the job's id.
    :param wasabi_conn_id: the connection's id. The keys themselves are no argument: they never leave the connection.
    :param poke_interval: seconds between two looks, more than 0.
    :param exponential_backoff: whether the intervals grow, as a sensor's with the same argument do.
    :param max_wait: the longest interval in seconds, if they grow. Default: no limit.
    :param end_from_trigger: whether a job that completed well ends the task right here, without a worker:
        the event is a ``TaskSuccessEvent`` with the report as XCom then.
    :param max_error_count: how many errors a completed job may have to end the task here. Default: any number.
    :param fetch_metadata: whether the XCom of a task that ends here also tells where the result lies.
    :raises ValueError: if an interval is not positive.
    """

    def __init__(
        self,
        job_id: str,
        wasabi_conn_id: str,
        poke_interval: float,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        *,
        end_from_trigger: bool = False,
        max_error_count: int | None = None,
        fetch_metadata: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own, and untyped
        _check_intervals(poke_interval, max_wait)
        self.job_id = job_id
        self.wasabi_conn_id = wasabi_conn_id
        self.poke_interval = poke_interval
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.end_from_trigger = end_from_trigger
        self.max_error_count = max_error_count
        self.fetch_metadata = fetch_metadata

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
                "end_from_trigger": self.end_from_trigger,
                "max_error_count": self.max_error_count,
                "fetch_metadata": self.fetch_metadata,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the job at each interval until there is something to tell."""
        # The place at the watch is given up before: Airflow may never come back for more than the event.
        yield await self._wait()

    async def _wait(self) -> TriggerEvent:
        await _load()
        from airflow_wasabi_jobs.api.models import JobReport
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.watch import Seat

        # One logger for all: what tells whose line it is, is the context that Airflow runs each trigger in.
        story = Story(self.logger(), f"Job {self.job_id!r}")
        async with Seat(self.wasabi_conn_id, WasabiJobsHook(self.wasabi_conn_id).aread_settings) as seat:
            poke_count = 0
            while True:
                poke_count += 1
                interval = _interval(self, poke_count)
                try:
                    seen = await seat.look(
                        self.job_id, interval, in_step=not self.exponential_backoff, quiet_for=SIGN_OF_LIFE
                    )
                except errors.AirError as error:
                    if not error.is_passing:
                        return TriggerEvent({"job_id": self.job_id, "error": errors.to_event(error)})
                    story.troubled(error)
                    continue
                if not isinstance(seen, JobReport):
                    story.answered(seen.value)
                    continue
                story.answered(seen.status.value, f"errors: {seen.error_count}")
                if seen.status.is_final:
                    return await self._end(seen, seat)

    async def _end(self, report: JobReport, seat: Seat) -> TriggerEvent:
        from airflow_wasabi_jobs.api import calls

        told = report.as_xcom()
        if not self.end_from_trigger or not report.is_completed_within(self.max_error_count):
            return TriggerEvent(told)
        try:
            place = (await seat.ask(calls.job_metadata(self.job_id))).as_xcom() if self.fetch_metadata else {}
            return TaskSuccessEvent(xcoms=await _pushed(self.task_instance, told | place))
        except errors.AirError as error:
            self.log.info("Job %r: a worker will ask where the result lies. %s", self.job_id, error)
        except Exception:
            self.log.exception("Job %r: the XCom can't be pushed from here, so a worker ends the task.", self.job_id)
        return TriggerEvent(told)


class WasabiBatchTrigger(BaseTrigger):
    """
    Waits for a batch of Wasabi AiR jobs and fires once, when it is over or can't be asked for.

    The event of a batch that is over is its report, ``{"batch", "is_over", "counts", "failures", "more_failures"}``,
    whatever became of its jobs. The event of an error that ends the wait is ``{"batch", "error"}``, for
    :func:`airflow_wasabi_jobs.api.errors.from_event`. Passing trouble fires nothing: the wait goes on.

    :param batch: the name of the batch.
    :param wasabi_conn_id: the connection's id. The keys themselves are no argument: they never leave the connection.
    :param poke_interval: seconds between two looks, more than 0. The first look comes after one interval.
    :param exponential_backoff: whether the intervals grow, as a sensor's with the same argument do.
    :param max_wait: the longest interval in seconds, if they grow. Default: no limit.
    :param expected_jobs: how many jobs the batch has at least before it can be over. Default: one.
    :param max_failures: how many jobs may fail or be cancelled.
    :param fail_fast: whether it is over as soon as more than that did.
    :raises ValueError: if an interval is not positive.
    """

    def __init__(
        self,
        batch: str,
        wasabi_conn_id: str,
        poke_interval: float,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        *,
        expected_jobs: int | None = None,
        max_failures: int = 0,
        fail_fast: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's own, and untyped
        _check_intervals(poke_interval, max_wait)
        self.batch = batch
        self.wasabi_conn_id = wasabi_conn_id
        self.poke_interval = poke_interval
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.expected_jobs = expected_jobs
        self.max_failures = max_failures
        self.fail_fast = fail_fast

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class's path and the arguments that make this trigger again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "batch": self.batch,
                "wasabi_conn_id": self.wasabi_conn_id,
                "poke_interval": self.poke_interval,
                "exponential_backoff": self.exponential_backoff,
                "max_wait": self.max_wait,
                "expected_jobs": self.expected_jobs,
                "max_failures": self.max_failures,
                "fail_fast": self.fail_fast,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the batch at each interval until there is something to tell."""
        yield await self._wait()

    async def _wait(self) -> TriggerEvent:
        await _load()
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.watch import Seat

        story = Story(self.logger(), f"Batch {self.batch!r}")
        async with Seat(self.wasabi_conn_id, WasabiJobsHook(self.wasabi_conn_id).aread_settings) as seat:
            poke_count = 0
            while True:
                poke_count += 1
                await asyncio.sleep(_interval(self, poke_count))
                try:
                    report = await self._look(seat)
                except errors.AirError as error:
                    if not error.is_passing:
                        return TriggerEvent({"batch": self.batch, "error": errors.to_event(error)})
                    story.troubled(error)
                    continue
                story.answered(report.state, report.counts_told())
                if report.is_over:
                    return TriggerEvent(report.as_event())

    async def _look(self, seat: Seat) -> BatchReport:
        from airflow_wasabi_jobs.api import batches

        asking = batches.look(
            self.batch, expected_jobs=self.expected_jobs, max_failures=self.max_failures, fail_fast=self.fail_fast
        )
        call = next(asking)
        while True:
            answer = await seat.ask(call)
            try:
                call = asking.send(answer)
            except StopIteration as end:
                report: BatchReport = end.value
                return report


async def _load() -> None:
    """Load what a wait needs in a thread: it takes longer than an event loop may stand still."""
    if not sys.modules.keys() >= _LOADED:
        for module in _LOADED:
            await asyncio.to_thread(importlib.import_module, module)


def _check_intervals(poke_interval: float, max_wait: float | None) -> None:
    if poke_interval <= 0:
        raise ValueError(f"poke_interval must be more than 0 seconds, not {poke_interval!r}")
    if max_wait is not None and max_wait < 0:
        raise ValueError(f"max_wait must not be less than 0 seconds, but is {max_wait!r}")


def _interval(trigger: WasabiJobTrigger | WasabiBatchTrigger, poke_count: int) -> float:
    """Return the seconds to wait after that many looks, by the rule of ``BaseSensorOperator``."""
    if not trigger.exponential_backoff:
        return trigger.poke_interval
    # Airflow doubles without end, too, but an int would outgrow what a float can be multiplied with.
    shortest = max(int(trigger.poke_interval * 2 ** min(poke_count - 2, 64)), 1)
    interval = float(shortest + random.randrange(shortest))  # noqa: S311 - spreads the looks, guards nothing
    return min(trigger.max_wait, interval) if trigger.max_wait else interval


async def _pushed(ti: Any, told: dict[str, Any]) -> dict[str, Any] | None:
    """Push the XCom, or return it for the event to carry."""
    try:
        from airflow.sdk.execution_time.xcom import XCom
    except ImportError:
        return {"return_value": told}
    # What an event carries is encoded twice by Airflow 3, and pulled as a text.
    from asgiref.sync import sync_to_async

    identity = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    await sync_to_async(XCom.set)(key="return_value", value=told, **identity)
    return None
