"""A task of each kind, some of which fail. OpenLineage asks each of them for its lineage."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator, WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor, WasabiJobSensor

SUBMISSION: dict[str, Any] = {"destination": {"bucket": "results", "region": "us-east-1"}, "services": ["ocr", "s2t"]}

with DAG(
    dag_id="e2e_lineage",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    # Airflow may fail a task that resumes before the scheduler has noticed that it was deferred.
    default_args={"deferrable": True, "poke_interval": 10},
) as dag:
    for task_id, file in {"completes": "monday.mp4", "fails": "fails.mp4", "cancels": "cancels.mp4"}.items():
        WasabiSubmitJobOperator(
            task_id=task_id,
            source={"bucket": "media", "object_key": file},
            fetch_metadata=True,
            deferrable=task_id != "cancels",
            **SUBMISSION,
        )
    submit = WasabiSubmitJobOperator.partial(task_id="submit", wait_for_completion=False, **SUBMISSION).expand(
        # Later than the sensors, so that these read their connection for OpenLineage only.
        source=[{"bucket": "media", "object_key": f"{end}-after-30-seconds.mp4"} for end in ("completes", "fails")]
    )
    WasabiJobSensor.partial(task_id="wait", end_from_trigger=True).expand(job_id=submit.output)
    library = WasabiSubmitBatchOperator(
        task_id="library",
        sources=["s3://media/a.mp4", "s3://media/fails-b.mp4", "s3://media/c.mp4"],
        results_path=f"file://{os.environ['E2E_RESULTS']}",
        fetch_metadata=True,
        max_failures=1,
        **SUBMISSION,
    )
    library >> WasabiBatchSensor(  # type: ignore[operator] # Airflow defines it
        task_id="wait_for_library",
        batch="{{ ti.xcom_pull(task_ids='library', key='batch') }}",
        deferrable=False,
        fail_fast=False,
    )
