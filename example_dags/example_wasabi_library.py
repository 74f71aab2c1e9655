"""
Analyse a whole library of files in one task, and read the results of all of them.

The connection ``wasabi_default`` holds the base URL of the API and the keys. The emulator (``wasabi-air-emulator``)
accepts any bucket and key, and its jobs take 5 seconds.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

# With Airflow 3 alone: from airflow.sdk import DAG, ObjectStoragePath, Param, task
from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator

with DAG(
    dag_id="example_wasabi_library",
    description="Submit all files of a library in one task, and read the results",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    # A job that failed is not retried. A connection error or a wrong key is.
    default_args={"retries": 2},
    params={
        "files": Param(20, type="integer", minimum=0, description="Number of files in the library"),
        "results": Param("file:///tmp/wasabi_library", type="string", description="URL of the folder for the results"),
    },
) as dag:

    @task
    def list_files(number_of_files: str) -> list[str]:
        """Return the URLs of the files, for example those of a bucket."""
        # ObjectStoragePath("s3://conn_id@media").rglob("*.mp4") lists a bucket.
        return [f"s3://media/library/{number:05}.mp4" for number in range(int(number_of_files))]

    analyse = WasabiSubmitBatchOperator(
        task_id="analyse",
        sources=list_files("{{ params.files }}"),
        destination={"bucket": "results", "region": "us-east-1"},
        services=["ocr", "s2t"],
        max_unfinished_jobs=200,
        max_failures=5,
        fetch_metadata=True,
        results_path="{{ params.results }}/{{ run_id }}.jsonl",
        poke_interval=timedelta(seconds=2),
        timeout=timedelta(days=2),
        deferrable=True,
    )

    @task
    def count_results(report: dict[str, str]) -> dict[str, int]:
        """Read the results file."""
        lines = ObjectStoragePath(report["results_path"]).read_text().splitlines()
        results = [json.loads(line) for line in lines]
        return {"files": len(results), "results": sum(result["metadata_path"] is not None for result in results)}

    count_results(analyse.output)  # type: ignore[arg-type] # Airflow passes the report
