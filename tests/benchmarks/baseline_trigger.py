"""A trigger to compare with, which a triggerer can import: the same hook and log lines, but nothing is shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.waiting.status_log import StatusLog, describe_job_status

INTERVAL = 5.0


class BaselineTrigger(BaseTrigger):
    """A typical trigger of a provider: a polling loop for each wait, and an HTTP session for each request."""

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self.job_id = job_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.BaselineTrigger", {"job_id": self.job_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook = WasabiJobsHook("wasabi")
        status_log = StatusLog(f"Job {self.job_id!r}")
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                report = await hook.aget_job_status(self.job_id)
            except WasabiApiError as error:
                if not error.is_transient:
                    raise
                status_log.record_error(error)
                continue
            status_log.record_status(report.status, describe_job_status(report.status, report.error_count))
            if report.status.is_terminal:
                yield TriggerEvent(report.to_xcom())
                return
