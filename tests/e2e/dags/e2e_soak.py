"""Waits for five hundred jobs, for ``make soak``: of single tasks, and of a batch of files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator, WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiJobSensor

with DAG(
    dag_id="e2e_soak",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_tasks=1000,
    max_active_runs=100,
    # Processes are killed more often than a task usually has retries.
    default_args={
        "retries": 50,
        "retry_delay": timedelta(seconds=1),
        "wasabi_conn_id": "soak",
        "deferrable": True,
        "poke_interval": 10,
    },
):
    waits: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
        ("ended_by_trigger", "completes", 240, {"end_from_trigger": True}),
        ("failed", "fails", 20, {}),
        ("cancelled", "cancels", 10, {}),
        ("soft_failed", "fails", 10, {"soft_fail": True}),
    )
    for task_id, outcome, count, arguments in waits:
        WasabiJobSensor.partial(task_id=task_id, **arguments).expand(
            job_id=[
                f"{outcome}-after-{60 + number % 120}-seconds-{task_id}-{{{{ dag_run.conf['run'] }}}}-{number}"
                for number in range(count)
            ]
        )
    job_arguments: dict[str, Any] = {"services": ["ocr"], "destination": {"bucket": "results", "region": "eu"}}
    WasabiSubmitJobOperator.partial(task_id="submit", batch="{{ run_id }}", **job_arguments).expand(
        source=[
            {"bucket": "media", "object_key": f"completes-after-60-seconds-{number:04}.mp4"} for number in range(20)
        ]
    )
    WasabiSubmitBatchOperator(
        task_id="library",
        batch="library-{{ run_id }}",
        sources=[f"s3://media/completes-after-60-seconds-{number:04}.mp4" for number in range(200)],
        **job_arguments,
    )
