"""Triggers: they poll in the triggerer, for a sensor or an operator that is deferred, or for an asset watcher."""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api.exceptions import WasabiApiError, serialize_error
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.waiting.status_log import HEARTBEAT_SECONDS, StatusLog, describe_job_status
from airflow_wasabi_jobs.watching import arguments

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2
    BaseEventTrigger = BaseTrigger  # type: ignore[misc,assignment] # a trigger of it raises

if TYPE_CHECKING:
    from airflow.triggers.shared_stream import SharedStreamProducer

    from airflow_wasabi_jobs.api.models import JobReport
    from airflow_wasabi_jobs.polling import Subscription
    from airflow_wasabi_jobs.watching.polls import SharedPoll


_LAZY_MODULES = {"airflow_wasabi_jobs.hooks", "airflow_wasabi_jobs.polling", "airflow_wasabi_jobs.watching.watcher"}
# A factor of 2**62 exceeds any max_wait, and an int beyond what a float can hold cannot be multiplied with one.
_MAX_BACKOFF_EXPONENT = 64


class WasabiJobTrigger(BaseTrigger):
    """
    Waits for a Wasabi AiR job, and fires one event when the job has finished or a permanent error occurs.

    The payload for a finished job is its report, ``{"job_id", "status", "error_count"}``, whatever its status. The
    payload for a permanent error is ``{"job_id", "error"}``. Transient errors do not end the wait.

    Waits with the same ``poke_interval`` poll together, unless ``exponential_backoff`` is set. The first poll comes 0.5
    to 1.5 intervals after the start, and not at once, because the sensor has polled before it defers.

    :param job_id: id of the job (str).
    :param wasabi_conn_id: id of the connection (str). The keys are not an argument, because Airflow stores arguments in
        its database.
    :param poke_interval: seconds between two polls, more than 0 (float).
    :param exponential_backoff: whether the intervals grow as those of a sensor do (bool). Default: False.
    :param max_wait: longest interval in seconds with ``exponential_backoff`` (float). Default: None, for no limit.
    :param end_from_trigger: whether a job that completes within ``max_error_count`` ends the task in the triggerer, by
        a ``TaskSuccessEvent`` (bool). Default: False.
    :param max_error_count: how many errors a completed job may have to end the task in the triggerer (int). Default:
        None, for any number.
    :param fetch_metadata: whether the XCom of a task that ends in the triggerer includes the location of the result
        (bool). Default: False.
    :raises ValueError: if an interval is invalid.
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
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        _validate_intervals(poke_interval, max_wait)
        self.job_id = job_id
        self.wasabi_conn_id = wasabi_conn_id
        self.poke_interval = poke_interval
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.end_from_trigger = end_from_trigger
        self.max_error_count = max_error_count
        self.fetch_metadata = fetch_metadata

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and the arguments of this trigger."""
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
        """Poll at each interval, and yield one event."""
        # The subscription ends before the event: Airflow may never resume the generator after it.
        yield await _measure(self._wait())

    async def _wait(self) -> TriggerEvent:
        await _import_lazy_modules()
        from airflow_wasabi_jobs.api.models import JobReport
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.polling import Subscription

        status_log = StatusLog(f"Job {self.job_id!r}")
        hook = WasabiJobsHook(self.wasabi_conn_id)
        async with Subscription(self.wasabi_conn_id, hook.aread_settings) as subscription:
            poke_count = 0
            while True:
                poke_count += 1
                interval = _next_interval(self, poke_count)
                try:
                    result = await subscription.poll(
                        self.job_id,
                        interval,
                        align=not self.exponential_backoff,
                        report_unchanged_after=HEARTBEAT_SECONDS,
                    )
                except WasabiApiError as error:
                    if not error.is_transient:
                        return TriggerEvent({"job_id": self.job_id, "error": serialize_error(error)})
                    status_log.record_error(error)
                    continue
                if not isinstance(result, JobReport):
                    status_log.record_status(result.value, describe_job_status(result.value))
                    continue
                status_log.record_status(result.status.value, describe_job_status(result.status, result.error_count))
                if result.status.is_terminal:
                    return await self._finish(result, subscription)

    async def _finish(self, report: JobReport, subscription: Subscription) -> TriggerEvent:
        from airflow_wasabi_jobs.api import endpoints

        xcom = report.to_xcom()
        # dag.test() sets no task instance. It passes the event on to the task, also one that ends the task.
        if not self.end_from_trigger or self.task_instance is None or not report.has_succeeded(self.max_error_count):
            return TriggerEvent(xcom)
        try:
            metadata = {}
            if self.fetch_metadata:
                metadata = (await subscription.send(endpoints.get_job_metadata(self.job_id))).to_xcom()
            return TaskSuccessEvent(xcoms=await _push_xcom(self.task_instance, xcom | metadata))
        except WasabiApiError as error:
            LOG.info("Job %r: a worker will retry to read the result location. %s", self.job_id, error)
        except Exception:
            LOG.exception("Job %r: the triggerer could not push the XCom; a worker ends the task.", self.job_id)
        return TriggerEvent(xcom)


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
        _validate_intervals(poke_interval, max_wait)
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
        yield await _measure(self._wait())

    async def _wait(self) -> TriggerEvent:
        await _import_lazy_modules()
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
                await asyncio.sleep(_next_interval(self, poke_count))
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
                    status_log.record_error(error)
                    continue
                status_log.record_progress(report.status, report.describe(self.expected_jobs))
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
        _validate_intervals(poke_interval, None)
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
        yield await _measure(self._wait())

    async def _wait(self) -> TriggerEvent:
        await _import_lazy_modules()
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


async def _measure(wait: Coroutine[Any, Any, TriggerEvent]) -> TriggerEvent:
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


class WasabiJobsFinishedTrigger(BaseEventTrigger):
    """
    Fires an event for each Wasabi AiR job that finishes, no matter who submitted it. For an ``AssetWatcher``, from
    Airflow 3 on.

    The payload is ``{"job_id", "status", "error_count", "name", "batch", "source", "created", "completed",
    "metadata_path", "destination"}``. The last two are None unless the job completed and the API provides the location
    of the result within 10 seconds. Any other but the first three is None if the API does not name it.

    It never raises: after an error it polls again, and it reads the connection before that. The last of several events
    comes 10 seconds after the others, because Airflow keeps all but the first of them until another event comes.

    :param wasabi_conn_id: id of the connection (str). Default: ``wasabi_default``.
    :param batch: only jobs of this batch, up to 256 characters (str). Default: None, for all.
    :param name_prefix: only jobs whose name begins with this, up to 256 characters (str). Default: None, for all.
    :param statuses: the statuses that fire an event: ``completed``, ``failed``, ``cancelled`` (list or tuple of str).
        Default: all three.
    :param poke_interval: seconds between two polls, more than 0 (float). Default: 60.
    :param lookback: at the first start, jobs that finished so many seconds before it fire an event, too (float).
        Before Airflow 3.3 at each start, because only from then on the trigger stores which jobs it has reported.
        Default: 3600.
    :raises ValueError: if an argument is invalid.
    :raises RuntimeError: on Airflow 2.
    """

    def __init__(
        self,
        *,
        wasabi_conn_id: str = "wasabi_default",
        batch: str | None = None,
        name_prefix: str | None = None,
        statuses: Sequence[str] = arguments.TERMINAL_STATUSES,
        poke_interval: float = 60,
        lookback: float = 3600,
    ) -> None:
        if BaseEventTrigger is BaseTrigger:
            raise RuntimeError("WasabiJobsFinishedTrigger needs Airflow 3: Airflow 2 has no AssetWatcher.")
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        arguments.validate_text("batch", batch)
        arguments.validate_text("name_prefix", name_prefix)
        arguments.validate_statuses(statuses)
        arguments.validate_seconds("poke_interval", poke_interval, is_zero_allowed=False)
        arguments.validate_seconds("lookback", lookback, is_zero_allowed=True)
        self.wasabi_conn_id = wasabi_conn_id
        self.batch = batch
        self.name_prefix = name_prefix
        self.statuses = sorted(set(statuses))
        self.poke_interval = poke_interval
        self.lookback = lookback

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and the arguments of this trigger."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "wasabi_conn_id": self.wasabi_conn_id,
                "batch": self.batch,
                "name_prefix": self.name_prefix,
                "statuses": self.statuses,
                "poke_interval": self.poke_interval,
                "lookback": self.lookback,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll at each interval, and yield an event for each job that has finished. Before Airflow 3.3."""
        from airflow_wasabi_jobs.watching.polls import shared_polls

        async for event in self._events(shared_polls(self.poke_interval)):
            yield event

    def shared_stream_key(self) -> tuple[str, str, float]:
        """Return what the watchers that poll together have in common."""
        return type(self).__qualname__, self.wasabi_conn_id, self.poke_interval

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return what produces the polls, and learns when Airflow has stored their events."""
        from airflow_wasabi_jobs.watching.shared_stream import PollProducer

        return PollProducer(kwargs["poke_interval"])

    async def filter_shared_stream(self, shared_stream: AsyncIterator[SharedPoll]) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each job that has finished, at each poll of the stream. From Airflow 3.3 on."""
        async for event in self._events(shared_stream):
            yield event

    async def _events(self, polls: AsyncIterator[SharedPoll]) -> AsyncIterator[TriggerEvent]:
        await _import_lazy_modules()
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.watching.selection import Selection
        from airflow_wasabi_jobs.watching.watcher import Watcher

        selection = Selection(self.wasabi_conn_id, self.batch, self.name_prefix, self.statuses)
        self.logger().info("%s: polling every %g s.", selection.subject, self.poke_interval)
        async with Watcher(
            selection,
            read_settings=WasabiJobsHook(self.wasabi_conn_id).aread_settings,
            poke_interval=self.poke_interval,
            lookback=self.lookback,
            asset_state_store=getattr(self, "asset_state_store", None),
            log=self.logger(),
        ) as watcher:
            async for poll in polls:
                for payload in await watcher.poll(poll):
                    yield TriggerEvent(payload)
                # A trigger that ends before its last event has not reached this, so no event is lost.
                watcher.save_when_confirmed(poll)


async def _import_lazy_modules() -> None:
    """Do in a thread what takes longer than the event loop may be blocked."""
    if not sys.modules.keys() >= _LAZY_MODULES:
        for module in _LAZY_MODULES:
            await asyncio.to_thread(importlib.import_module, module)
        await asyncio.to_thread(metrics.find_stats)


def _validate_intervals(poke_interval: float, max_wait: float | None) -> None:
    if poke_interval <= 0:
        raise ValueError(f"poke_interval is {poke_interval!r}, but must be more than 0 seconds.")
    if max_wait is not None and max_wait < 0:
        raise ValueError(f"max_wait is {max_wait!r}, but must not be less than 0 seconds.")


def _next_interval(trigger: WasabiJobTrigger | WasabiBatchTrigger, poke_count: int) -> float:
    """Return the seconds until the next poll, by the rule of ``BaseSensorOperator``."""
    if not trigger.exponential_backoff:
        return trigger.poke_interval
    shortest = max(int(trigger.poke_interval * 2 ** min(poke_count - 2, _MAX_BACKOFF_EXPONENT)), 1)
    interval = float(shortest + random.randrange(shortest))  # noqa: S311 - jitter, not a secret
    return min(trigger.max_wait, interval) if trigger.max_wait else interval


async def _push_xcom(ti: Any, xcom: dict[str, Any]) -> dict[str, Any] | None:
    """Push the XCom, or return it for the event to carry."""
    try:
        from airflow.sdk.execution_time.xcom import XCom
    except ImportError:
        return {"return_value": xcom}
    # Airflow 3 encodes the XComs of an event twice, so that they are pulled as a string.
    from asgiref.sync import sync_to_async

    identity = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    await sync_to_async(XCom.set)(key="return_value", value=xcom, **identity)
    return None
