"""A trigger to compare with, which a triggerer can import: it sends nothing, so its costs are those of Airflow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class SleepTrigger(BaseTrigger):
    """Knows when the job ends, and logs as many lines as a trigger that polls."""

    def __init__(self, job_id: str, ends_at: float) -> None:
        super().__init__()
        self.job_id = job_id
        self.ends_at = ends_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.SleepTrigger", {"job_id": self.job_id, "ends_at": self.ends_at}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        self.log.info("Job %r: status in_progress, 0 errors.", self.job_id)
        await asyncio.sleep(self.ends_at - time.time())
        self.log.info("Job %r: status completed, 0 errors.", self.job_id)
        yield TriggerEvent({"job_id": self.job_id, "status": "completed", "error_count": 0})
