"""Submit tasks whose worker is killed once, at a different point for each task, and batch sensors."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor

JOB_ARGUMENTS = {
    "source": {"bucket": "media", "object_key": "a.mp4"},
    "destination": {"bucket": "results", "region": "eu"},
}


def kill_worker_after(function: Any) -> Any:
    def call_and_kill(*arguments: Any, **options: Any) -> Any:
        function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return call_and_kill


class KilledOnceOperator(WasabiSubmitJobOperator):
    """Kills the worker during its first try."""

    killed_after: str

    def execute(self, context: Any) -> Any:
        ti = context["ti"]
        if ti.try_number == 1:
            if self.killed_after == "submit":
                WasabiJobsHook.submit_job = kill_worker_after(WasabiJobsHook.submit_job)
            elif self.killed_after == "lookup":
                WasabiJobsHook.submit_job = kill_worker_after(lambda *_, **__: None)
            else:
                type(ti).xcom_push = kill_worker_after(type(ti).xcom_push)
        return super().execute(context)


with DAG(
    dag_id="e2e_submits",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    # Airflow fails a try that resumes before the scheduler has read that its first part has ended ("state mismatch").
    # So the interval is longer than a scheduler on a busy machine takes for that.
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1), "poke_interval": 6},
) as dag:
    for killed_after in ("lookup", "submit", "xcom"):
        task = KilledOnceOperator(
            task_id=f"killed_after_{killed_after}", services=["ocr"], deferrable=killed_after == "xcom", **JOB_ARGUMENTS
        )
        task.killed_after = killed_after
    WasabiSubmitJobOperator(
        task_id="deferred",
        services=["ocr"],
        source_conn_id="the_source",
        deferrable=True,
        fetch_metadata=True,
        **JOB_ARGUMENTS,
    )
    WasabiSubmitJobOperator(
        task_id="fails", name="fails-{{ run_id }}", services=["ocr"], deferrable=True, **JOB_ARGUMENTS
    )

with DAG(
    dag_id="e2e_batch",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    default_args={"poke_interval": 2},
) as batch_dag:
    submits = WasabiSubmitJobOperator.partial(
        task_id="submit",
        services=["ocr"],
        batch="{{ run_id }}",
        wait_for_completion=False,
        source=JOB_ARGUMENTS["source"],
        destination=JOB_ARGUMENTS["destination"],
    ).expand(name=["completes-{{ run_id }}-1", "completes-{{ run_id }}-2", "fails-{{ run_id }}"])
    batch_arguments: dict[str, Any] = {"batch": "{{ run_id }}", "expected_jobs": 3}
    submits >> [
        WasabiBatchSensor(task_id="good_enough", max_failures=1, deferrable=True, **batch_arguments),
        WasabiBatchSensor(task_id="fails", deferrable=True, **batch_arguments),
        WasabiBatchSensor(task_id="skips", soft_fail=True, mode="poke", **batch_arguments),
    ]
