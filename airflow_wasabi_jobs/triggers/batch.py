"""The triggers for all jobs of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api.exceptions import WasabiApiError, serialize_error
from airflow_wasabi_jobs.triggers.duration import measure
from airflow_wasabi_jobs.triggers.intervals import next_interval, validate_intervals
from airflow_wasabi_jobs.triggers.lazy_modules import import_lazy_modules
from airflow_wasabi_jobs.waiting.status_log import StatusLog


class WasabiBatchTrigger(BaseTrigger):
    """
    Waits for a batch of Wasabi AiR jobs, and fires one event when it has finished or a permanent error occurs.

    The payload for a finished batch is its report, ``{"batch", "is_finished", "counts", "failed_jobs",
    "more_failures"}``, whatever the statuses of its jobs. The payload for a permanent error is ``{"batch", "error"}``.
    Transient errors do not end the wait.

    :param batch: name of the batch (str).
    :param wasabi_conn_id: id of the connection (str). The keys are not an argument, because Airflow stores arguments in
        its database.
    :param poke_interval: seconds between two polls, more than 0 (float). The first poll follows after one interval.
    :param exponential_backoff: whether the intervals grow as those of a sensor do (bool). Default: False.
    :param max_wait: longest interval in seconds with ``exponential_backoff`` (float). Default: None, for no limit.
    :param expected_jobs: number of jobs that the batch has at least before it can be finished (int). Default: None, for
        one job.
    :param max_failures: how many jobs may fail or be cancelled (int). Default: 0.
    :param fail_fast: whether the wait ends as soon as more jobs than ``max_failures`` failed or were cancelled (bool).
        Default: True.
    :raises ValueError: if an interval is invalid.
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
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        validate_intervals(poke_interval, max_wait)
        self.batch = batch
        self.wasabi_conn_id = wasabi_conn_id
        self.poke_interval = poke_interval
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.expected_jobs = expected_jobs
        self.max_failures = max_failures
        self.fail_fast = fail_fast

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and the arguments of this trigger."""
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
        """Poll at each interval, and yield one event."""
        yield await measure(self._wait())

    async def _wait(self) -> TriggerEvent:
        await import_lazy_modules()
        from airflow_wasabi_jobs.api import batches
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.polling import Subscription

        status_log = StatusLog(f"Batch {self.batch!r}")
        counter = batches.BatchCounter(self.batch)
        hook = WasabiJobsHook(self.wasabi_conn_id)
        async with Subscription(self.wasabi_conn_id, hook.aread_settings) as subscription:
            poke_count = 0
            while True:
                poke_count += 1
                await asyncio.sleep(next_interval(self, poke_count))
                metrics.count("polls")
                try:
                    report = await subscription.send_all(
                        batches.poll_batch(
                            self.batch,
                            expected_jobs=self.expected_jobs,
                            max_failures=self.max_failures,
                            fail_fast=self.fail_fast,
                        )
                    )
                    if report.needs_count and status_log.is_progress_due(report.status):
                        report = report.with_counts(await subscription.send_all(counter.count()))
                except WasabiApiError as error:
                    if not error.is_transient:
                        return TriggerEvent({"batch": self.batch, "error": serialize_error(error)})
                    await asyncio.to_thread(status_log.record_error, error)
                    continue
                description = report.describe(self.expected_jobs)
                await asyncio.to_thread(status_log.record_progress, report.status, description)
                if report.is_finished:
                    return TriggerEvent(report.to_event())


class WasabiUnfinishedJobsTrigger(BaseTrigger):
    """
    Waits until at most a given number of a batch's jobs are unfinished, and fires one event then, or when a permanent
    error occurs.

    The payload is ``{"batch": "…"}``, and for a permanent error ``{"batch", "error"}``. Transient errors do not end the
    wait.

    :param batch: name of the batch (str).
    :param wasabi_conn_id: id of the connection (str).
    :param poke_interval: seconds between two polls, more than 0 (float). The first poll follows after one interval.
    :param max_unfinished_jobs: how many jobs may be unfinished when the wait ends (int). Default: 0.
    :param failed_jobs: how many jobs of the batch had failed or been cancelled before the wait (int). Default: 0.
    :param max_failures: how many more jobs may fail or be cancelled before the wait ends (int). Default: None, for any
        number.
    :param files: number of files of the batch, for the log (int). Default: 0.
    :param files_to_submit: how many of them are not submitted yet, for the log (int). Default: 0.
    :raises ValueError: if the interval is invalid.
    """

    def __init__(
        self,
        batch: str,
        wasabi_conn_id: str,
        poke_interval: float,
        *,
        max_unfinished_jobs: int = 0,
        failed_jobs: int = 0,
        max_failures: int | None = None,
        files: int = 0,
        files_to_submit: int = 0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        validate_intervals(poke_interval, None)
        self.batch = batch
        self.wasabi_conn_id = wasabi_conn_id
        self.poke_interval = poke_interval
        self.max_unfinished_jobs = max_unfinished_jobs
        self.failed_jobs = failed_jobs
        self.max_failures = max_failures
        self.files = files
        self.files_to_submit = files_to_submit

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and the arguments of this trigger."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "batch": self.batch,
                "wasabi_conn_id": self.wasabi_conn_id,
                "poke_interval": self.poke_interval,
                "max_unfinished_jobs": self.max_unfinished_jobs,
                "failed_jobs": self.failed_jobs,
                "max_failures": self.max_failures,
                "files": self.files,
                "files_to_submit": self.files_to_submit,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll at each interval, and yield one event."""
        yield await measure(self._wait())

    async def _wait(self) -> TriggerEvent:
        await import_lazy_modules()
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.polling import Subscription
        from airflow_wasabi_jobs.waiting.unfinished_jobs import UnfinishedJobs, wait_for_unfinished_jobs

        wait = UnfinishedJobs(
            batch=self.batch,
            max_unfinished_jobs=self.max_unfinished_jobs,
            failed_jobs=self.failed_jobs,
            max_failures=self.max_failures,
            files=self.files,
            files_to_submit=self.files_to_submit,
        )
        hook = WasabiJobsHook(self.wasabi_conn_id)
        async with Subscription(self.wasabi_conn_id, hook.aread_settings) as subscription:
            try:
                await wait_for_unfinished_jobs(wait, subscription, self.poke_interval)
            except WasabiApiError as error:
                return TriggerEvent({"batch": self.batch, "error": serialize_error(error)})
        return TriggerEvent({"batch": self.batch})
