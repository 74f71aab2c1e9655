"""Five hundred waits, for ``make soak``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
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
        ("ended_by_trigger", "completes", 380, {"end_from_trigger": True}),
        ("failed", "fails", 40, {}),
        ("cancelled", "cancels", 20, {}),
        ("soft_failed", "fails", 20, {"soft_fail": True}),
    )
    for task_id, outcome, count, arguments in waits:
        WasabiJobSensor.partial(task_id=task_id, **arguments).expand(
            job_id=[
                f"{outcome}-after-{60 + number % 120}-seconds-{task_id}-{{{{ dag_run.conf['run'] }}}}-{number}"
                for number in range(count)
            ]
        )
    WasabiSubmitJobOperator.partial(
        task_id="submit",
        batch="{{ run_id }}",
        services=["ocr"],
        destination={"bucket": "results", "region": "eu"},
    ).expand(
        source=[
            {"bucket": "media", "object_key": f"completes-after-60-seconds-{number:04}.mp4"} for number in range(40)
        ]
    )
