"""Deferred waits whose number, duration and connection are set by the run's conf."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task
from callbacks import record

from airflow_wasabi_jobs.sensors import WasabiJobSensor

with DAG(
    dag_id="e2e_many",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_tasks=64,
) as dag:

    @task
    def find_jobs(dag_run: Any = None) -> list[str]:
        conf = dag_run.conf
        return [f"completes-after-{conf['seconds']}-seconds-{dag_run.run_id}-{n}" for n in range(conf["count"])]

    wait = WasabiJobSensor.partial(
        task_id="wait",
        wasabi_conn_id="{{ dag_run.conf['conn_id'] }}",
        deferrable=True,
        poke_interval=2,
        timeout=600,
        on_success_callback=record("success"),
    ).expand(job_id=find_jobs())

    @task
    def count(reports: list[Any]) -> int:
        return sum(report["status"] == "completed" for report in reports)

    count(wait.output)
