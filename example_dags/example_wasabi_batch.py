"""
Submit many files as one batch, wait for all of them in one task, and find their results.

The connection ``wasabi_default`` says where the API is and with which keys to submit. The emulator
(``wasabi-air-emulator``) takes any bucket and key, and its jobs take 5 seconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta

# With Airflow 3 alone: from airflow.sdk import DAG, task
from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor

FILES = ["trailer.mp4", "interview.mp4", "archive.mp4"]
# A batch for each run. The runs of two DAGs may have the same id.
BATCH = "{{ dag.dag_id }}/{{ run_id }}"

with DAG(
    dag_id="example_wasabi_batch",
    description="Submit files as a batch, and wait for all of them in one task",
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
) as dag:
    submit = WasabiSubmitJobOperator.partial(
        task_id="submit",
        destination={"bucket": "results", "region": "us-east-1"},
        services=["ocr", "s2t"],
        batch=BATCH,
        wait_for_completion=False,
    ).expand(source=[{"bucket": "media", "object_key": key} for key in FILES])

    wait = WasabiBatchSensor(
        task_id="wait",
        batch=BATCH,
        expected_jobs=len(FILES),
        poke_interval=timedelta(seconds=2),
        timeout=timedelta(hours=6),
        deferrable=True,
    )

    # Right after the last completion, the API may not know yet where that result lies.
    @task(retries=3, retry_delay=timedelta(seconds=30))
    def find_results(job_ids: list[str]) -> list[str]:
        """Return where the results lie."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        hook = WasabiJobsHook()
        return [hook.get_job_metadata(job_id).path for job_id in job_ids]

    # Each submission's XCom is the id of its job.
    submit >> wait >> find_results(submit.output)  # type: ignore[arg-type] # Airflow hands over the ids
