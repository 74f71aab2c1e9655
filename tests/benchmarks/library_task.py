"""
One part of a task that submits a batch, in a process of its own as in a worker or a triggerer.

Reads the part as a line of JSON: to execute the task, to run its trigger, or to resume with its event. Prints its end
and what it cost as a line of JSON.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pkgutil
import resource
import sys
import time
from types import SimpleNamespace
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

import airflow_wasabi_jobs.hooks
import airflow_wasabi_jobs.polling
import airflow_wasabi_jobs.submitting.batch_run
import airflow_wasabi_jobs.waiting.unfinished_jobs  # noqa: F401 - memory and CPU are measured without the imports
from airflow_wasabi_jobs.exceptions import WasabiBatchFailed
from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator


def create_task(arguments: dict[str, Any]) -> WasabiSubmitBatchOperator:
    return WasabiSubmitBatchOperator(
        task_id="submit", destination={"bucket": "results", "region": "us-east-1"}, services=["ocr"], **arguments
    )


def run_part(part: dict[str, Any]) -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id="library", task_id="submit", run_id="run", map_index=-1, xcom_push=lambda **_: None, try_number=1
    )
    try:
        if "trigger" in part:
            path, arguments = part["trigger"]
            return {"event": asyncio.run(first_event(pkgutil.resolve_name(path)(**arguments)))}
        task = create_task(part["task"])
        if "next_kwargs" in part:
            return {"xcom": task.resume_execution("execute_complete", part["next_kwargs"], {"ti": ti})}
        return {"xcom": inspect.unwrap(WasabiSubmitBatchOperator.execute)(task, {"ti": ti})}
    except TaskDeferred as deferred:
        return {"trigger": deferred.trigger.serialize(), "kwargs": deferred.kwargs}
    except WasabiBatchFailed as error:
        return {"failure": str(error)}


async def first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    part = json.loads(sys.stdin.readline())
    os.environ["AIRFLOW_CONN_WASABI_DEFAULT"] = part["connection"]
    memory, cpu, started_at = peak_memory(), time.process_time(), time.monotonic()
    end = run_part(part)
    cost = {
        "cpu": time.process_time() - cpu,
        "seconds": time.monotonic() - started_at,
        "memory": peak_memory() - memory,
    }
    print("MEASURED" + json.dumps({**end, "cost": cost}))


if __name__ == "__main__":
    main()
