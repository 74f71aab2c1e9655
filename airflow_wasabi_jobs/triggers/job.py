"""The trigger for one job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_wasabi_jobs.api.exceptions import WasabiApiError, serialize_error
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.triggers.duration import measure
from airflow_wasabi_jobs.triggers.intervals import next_interval, validate_intervals
from airflow_wasabi_jobs.triggers.lazy_modules import import_lazy_modules
from airflow_wasabi_jobs.waiting.status_log import HEARTBEAT_SECONDS, StatusLog, describe_job_status

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import JobReport
    from airflow_wasabi_jobs.polling import Subscription


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
        validate_intervals(poke_interval, max_wait)
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
        yield await measure(self._wait())

    async def _wait(self) -> TriggerEvent:
        await import_lazy_modules()
        from airflow_wasabi_jobs.api.models import JobReport
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.polling import Subscription

        status_log = StatusLog(f"Job {self.job_id!r}")
        hook = WasabiJobsHook(self.wasabi_conn_id)
        async with Subscription(self.wasabi_conn_id, hook.aread_settings) as subscription:
            poke_count = 0
            while True:
                poke_count += 1
                interval = next_interval(self, poke_count)
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
                    await asyncio.to_thread(status_log.record_error, error)
                    continue
                if not isinstance(result, JobReport):
                    await asyncio.to_thread(status_log.record_status, result.value, describe_job_status(result.value))
                    continue
                description = describe_job_status(result.status, result.error_count)
                await asyncio.to_thread(status_log.record_status, result.status.value, description)
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
            message = "Job %r: a worker will retry to read the result location. %s"
            await asyncio.to_thread(LOG.info, message, self.job_id, error)
        except Exception as error:  # noqa: BLE001 - whatever the error is, a worker can push the XCom
            message = "Job %r: the triggerer could not push the XCom; a worker ends the task."
            await asyncio.to_thread(LOG.error, message, self.job_id, exc_info=error)
        return TriggerEvent(xcom)


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
