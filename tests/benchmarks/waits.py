"""
N deferred waits in one event loop, in a separate process, as in a triggerer. Prints its measurements as JSON.
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
from pathlib import Path
from typing import Any

import airflow.jobs.triggerer_job_runner  # noqa: F401 - a triggerer has imported it before the first wait


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


MEMORY_BEFORE_IMPORTS = memory()

# ruff: noqa: E402 - the memory before these imports is measured
from baseline_trigger import INTERVAL, BaselineTrigger

import airflow_wasabi_jobs.polling  # noqa: F401 - imported by a triggerer before the first wait
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.triggers import WasabiJobTrigger


async def first_outcome(trigger: Any) -> tuple[float, str]:
    try:
        async for event in trigger.run():
            payload = getattr(event, "payload", event)
            return time.time(), str(payload.get("status", payload.get("error")))
    except Exception as error:  # noqa: BLE001 - an exception is a wrong outcome
        return time.time(), type(error).__name__
    return time.time(), "no event"


async def record_lag(lags: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.02)
        lags.append(time.perf_counter() - before - 0.02)


async def measure(kind: str, jobs: list[str], limit: float) -> dict[str, Any]:
    # This imports what the first wait imports.
    await WasabiJobsHook("wasabi").aread_settings()
    gc.collect()
    lags: list[float] = []
    lag_task = asyncio.create_task(record_lag(lags))
    await asyncio.sleep(0.05)
    baseline_memory, cpu = memory(), time.process_time()
    peak, started_at = baseline_memory, time.time()
    tasks = {
        job_id: asyncio.create_task(
            first_outcome(
                BaselineTrigger(job_id) if kind == "baseline" else WasabiJobTrigger(job_id, "wasabi", INTERVAL)
            )
        )
        for job_id in jobs
    }
    pending = set(tasks.values())
    while pending and time.time() - started_at < limit:
        _, pending = await asyncio.wait(pending, timeout=0.5)
        peak = max(peak, memory())
    cpu = time.process_time() - cpu
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    lag_task.cancel()
    outcomes = {job_id: task.result() for job_id, task in tasks.items() if task not in pending}
    return {
        "started_at": started_at,
        "outcomes": outcomes,
        "lags": sorted(lags),
        "cpu": cpu,
        "memory": peak - baseline_memory,
        "memory of imports": baseline_memory - MEMORY_BEFORE_IMPORTS,
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    kind, url, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
    os.environ["AIRFLOW_CONN_WASABI"] = json.dumps(
        {"conn_type": "wasabi", "host": url, "login": "emulator-access-key", "password": "emulator-secret-key"}
    )
    print("ready", flush=True)
    print("MEASURED", json.dumps(asyncio.run(measure(kind, json.loads(sys.stdin.readline()), limit))), flush=True)
