"""The DAGs of the demo: a file, a batch of two files and a job that exists already; then a library of 200 files."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator, WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor, WasabiJobSensor


def write_event(context: Any) -> None:
    """Write the outcome of a task for the demo to print."""
    ti, error = context["ti"], context.get("exception")
    event = {
        "at": time.time(),
        "task": (ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]") + os.environ["WASABI_DEMO_RUN"],
        "xcom": None if error else ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index),
        "error": error and type(error).__name__,
        "message": error and str(error),
    }
    with Path(os.environ["WASABI_DEMO_EVENTS"]).open("a") as file:
        file.write(json.dumps(event) + "\n")


ANALYSIS = {"destination": {"bucket": "results", "region": "us-east-1"}, "services": ["ocr", "s2t"]}

DAG_ARGUMENTS: dict[str, Any] = {
    "start_date": datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    "default_args": {
        "poke_interval": 1,
        # A job that failed or was cancelled is final, so the demo shows no retry.
        "retries": 2,
        "retry_delay": timedelta(seconds=1),
        "on_success_callback": write_event,
        "on_failure_callback": write_event,
    },
}

with DAG(dag_id="wasabi_demo", schedule=None, **DAG_ARGUMENTS) as dag:
    analyse_interview = WasabiSubmitJobOperator(
        task_id="analyse_interview",
        name="completes-interview",
        source={"bucket": "media", "object_key": "interview.mp4"},
        **ANALYSIS,  # type: ignore[arg-type] # one dict for arguments of several types
        fetch_metadata=True,
        deferrable=True,
    )
    submit_clips = WasabiSubmitJobOperator.partial(
        task_id="submit_clips", **ANALYSIS, batch="clips", wait_for_completion=False
    ).expand_kwargs(
        [
            {"name": name, "source": {"bucket": "media", "object_key": f"{name}.mp4"}}
            for name in ("completes-clip", "fails-clip")
        ]
    )
    wait_for_clips = WasabiBatchSensor(task_id="wait_for_clips", batch="clips", expected_jobs=2, deferrable=True)
    # It depends on no other task, and runs last only to keep the output in order.
    wait_for_archive = WasabiJobSensor(task_id="wait_for_archive", job_id="cancels-archive", trigger_rule="all_done")

    analyse_interview >> submit_clips >> wait_for_clips >> wait_for_archive

with DAG(dag_id="wasabi_demo_library", schedule=None, **DAG_ARGUMENTS) as library_dag:
    WasabiSubmitBatchOperator(
        task_id="analyse_library",
        batch="library",
        sources=[f"s3://media/{'fails-once-' if number < 3 else ''}{number:03}.mp4" for number in range(200)],
        **ANALYSIS,  # type: ignore[arg-type] # one dict for arguments of several types
        deferrable=True,
    )
