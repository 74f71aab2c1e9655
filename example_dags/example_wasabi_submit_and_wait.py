"""
Submit a file to Wasabi AiR, wait until it is analysed, and go on with the result.

The connection ``wasabi_default`` says where the API is and with which keys to submit. The emulator
(``wasabi-air-emulator``) takes any bucket and key, and its jobs take 5 seconds.
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
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    params={
        "bucket": Param("media", description="Bucket of the media file"),
        "key": Param("interviews/monday.mp4", description="Key of the media file in the bucket"),
    },
) as dag:
    # A retry of this task finds the job by its name, which is made of the run's id, and submits no second one.
    analyse = WasabiSubmitJobOperator(
        task_id="analyse",
        source={"bucket": "{{ params.bucket }}", "object_key": "{{ params.key }}"},
        destination={"bucket": "results", "region": "us-east-1"},
        services=["ocr", "s2t"],
        fetch_metadata=True,
        deferrable=True,
        # How often to look, and when to give up. For real media, a minute and some hours are a good start.
        poke_interval=timedelta(seconds=2),
        timeout=timedelta(hours=6),
    )

    @task
    def use_result(report: dict[str, Any]) -> str:
        """Return where the result lies. In a real DAG, this is where it is read."""
        return str(report["metadata_path"])

    use_result(analyse.output)  # type: ignore[arg-type] # Airflow hands over the report that it stands for
