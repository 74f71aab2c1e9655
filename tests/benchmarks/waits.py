"""
N deferred waits in one event loop, in a process of its own, as in a triggerer. Prints what it measured as JSON.

The yardstick is what a provider's trigger usually is: a loop of its own for each wait, over one pooled session.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import TriggerEvent

import airflow_wasabi_jobs.watch  # noqa: F401 - what a triggerer has loaded already
from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.story import Story
from airflow_wasabi_jobs.triggers import WasabiJobTrigger

INTERVAL = 5.0


class Yardstick:
    """A trigger with a loop of its own: the same hook and the same story, but nothing shared with other waits."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.hook = WasabiJobsHook("wasabi")
        self.story = Story(logging.getLogger("airflow.yardstick"), job_id)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                report = await self.hook.aget_job_status(self.job_id)
            except errors.AirError as error:
                if not error.is_passing:
                    raise
                self.story.troubled(error)
                continue
            self.story.answered(report.status, report.error_count)
            if report.status.is_final:
                yield TriggerEvent(report.as_xcom())
                return


async def first(trigger: Any) -> tuple[float, str]:
    try:
        async for event in trigger.run():
            payload = getattr(event, "payload", event)
            return time.time(), str(payload.get("status", payload.get("error")))
    except Exception as error:  # noqa: BLE001 - it is an outcome, and a wrong one
        return time.time(), type(error).__name__
    return time.time(), "no event"


async def lag(lags: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.02)
        lags.append(time.perf_counter() - before - 0.02)


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def measure(kind: str, jobs: list[str], limit: float) -> dict[str, Any]:
    # What a triggerer has loaded already.
    await WasabiJobsHook("wasabi").aread_settings()
    # What it took to load Airflow is not what the waits cost.
    gc.collect()
    lags: list[float] = []
    measuring = asyncio.create_task(lag(lags))
    await asyncio.sleep(0.05)
    base, cpu = memory(), time.process_time()
    peak, began = base, time.time()
    tasks = {
        job_id: asyncio.create_task(
            first(Yardstick(job_id) if kind == "yardstick" else WasabiJobTrigger(job_id, "wasabi", INTERVAL))
        )
        for job_id in jobs
    }
    left = set(tasks.values())
    while left and time.time() - began < limit:
        _, left = await asyncio.wait(left, timeout=0.5)
        peak = max(peak, memory())
    cpu = time.process_time() - cpu
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    measuring.cancel()
    outcomes = {job_id: task.result() for job_id, task in tasks.items() if task not in left}
    return {"began": began, "outcomes": outcomes, "lags": sorted(lags), "cpu": cpu, "memory": peak - base}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    kind, url, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
    os.environ["AIRFLOW_CONN_WASABI"] = json.dumps(
        {"conn_type": "wasabi", "host": url, "login": "emulator-access-key", "password": "emulator-secret-key"}
    )
    print("ready", flush=True)
    print("MEASURED", json.dumps(asyncio.run(measure(kind, json.loads(sys.stdin.readline()), limit))), flush=True)
