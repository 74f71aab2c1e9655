"""
Submit many files as one batch, wait for all of them in one task, and get the locations of their results.

The connection ``wasabi_default`` holds the base URL of the API and the keys. The emulator (``wasabi-air-emulator``)
accepts any bucket and key, and its jobs take 5 seconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta

# With Airflow 3 alone: from airflow.sdk import DAG, task
from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor

FILES = ["trailer.mp4", "interview.mp4", "archive.mp4"]
# One batch for each run. The DAG id is needed, because runs of two DAGs may have the same run id.
BATCH = "{{ dag.dag_id }}/{{ run_id }}"

with DAG(
    dag_id="example_wasabi_batch",
    description="Submit files as a batch, and wait for all of them in one task",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    # A job that failed is not retried. A connection error or a wrong key is.
    default_args={"retries": 2},
) as dag:
    submit = WasabiSubmitJobOperator.partial(
        task_id="submit",
        destination={"bucket": "results", "region": "us-east-1"},
        services=["ocr", "s2t"],
        batch=BATCH,
        wait_for_completion=False,
        # Shows the file in the Airflow UI instead of the index.
        map_index_template="{{ task.source.object_key }}",
    ).expand(source=[{"bucket": "media", "object_key": key} for key in FILES])

    wait = WasabiBatchSensor(
        task_id="wait",
        batch=BATCH,
        expected_jobs=len(FILES),
        poke_interval=timedelta(seconds=2),
        timeout=timedelta(hours=6),
        deferrable=True,
    )

    # Right after a job has completed, the location of its result may not be available yet, so the task has retries.
    @task(retries=3, retry_delay=timedelta(seconds=30))
    def find_results(job_ids: list[str]) -> list[str]:
        """Return the locations of the results."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        hook = WasabiJobsHook()
        return [hook.get_job_metadata(job_id).path for job_id in job_ids]

    # The XCom of each mapped task is the id of its job.
    submit >> wait >> find_results(submit.output)  # type: ignore[arg-type] # Airflow passes the ids
