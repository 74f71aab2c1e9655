"""
Wait for many Wasabi AiR jobs, each in its own mapped task.

The next task receives the report of every job: ``{"job_id", "status", "error_count"}``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

# With Airflow 3 alone: from airflow.sdk import DAG, task
from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.sensors import WasabiJobSensor

with DAG(
    dag_id="example_wasabi_mapped_sensors",
    description="Wait for many Wasabi AiR jobs, one mapped task each",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    # A job that failed is not retried. A connection error or a wrong key is.
    default_args={"retries": 2},
) as dag:

    @task
    def find_jobs() -> list[str]:
        """Return the ids of the jobs. In a real DAG they come from whatever submitted the jobs."""
        return ["completes-trailer", "completes-interview", "completes-with-2-errors-archive"]

    wait = WasabiJobSensor.partial(
        task_id="wait",
        poke_interval=timedelta(seconds=2),
        timeout=timedelta(hours=6),
        deferrable=True,
        # Shows the job id in the Airflow UI instead of the index.
        map_index_template="{{ task.job_id }}",
    ).expand(job_id=find_jobs())

    @task
    def summarize(reports: list[dict[str, Any]]) -> int:
        """Return the total number of errors."""
        return sum(report["error_count"] for report in reports)

    summarize(wait.output)  # type: ignore[arg-type] # Airflow passes the reports
