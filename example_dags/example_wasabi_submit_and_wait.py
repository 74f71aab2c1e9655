"""
Submit a file to Wasabi AiR, wait for its analysis, and use the result.

The connection ``wasabi_default`` holds the base URL of the API and the keys. The emulator (``wasabi-air-emulator``)
accepts any bucket and key, and its jobs take 5 seconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

# With Airflow 3 alone: from airflow.sdk import DAG, Param, task
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator

with DAG(
    dag_id="example_wasabi_submit_and_wait",
    description="Submit a file, wait for its analysis in the triggerer, and use the result",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    # A job that failed is not retried. A connection error or a wrong key is.
    default_args={"retries": 2},
    params={
        "bucket": Param("media", description="Bucket of the media file"),
        "key": Param("interviews/monday.mp4", description="Key of the media file in the bucket"),
    },
) as dag:
    # A retry of this task finds the job by its name, which contains the run id, and submits no second job.
    analyse = WasabiSubmitJobOperator(
        task_id="analyse",
        source={"bucket": "{{ params.bucket }}", "object_key": "{{ params.key }}"},
        destination={"bucket": "results", "region": "us-east-1"},
        services=["ocr", "s2t"],
        fetch_metadata=True,
        deferrable=True,
        # For real media files, a minute and a few hours are good values.
        poke_interval=timedelta(seconds=2),
        timeout=timedelta(hours=6),
    )

    @task
    def use_result(report: dict[str, Any]) -> str:
        """Return the location of the result. A real DAG reads it here."""
        return str(report["metadata_path"])

    use_result(analyse.output)  # type: ignore[arg-type] # Airflow passes the report
