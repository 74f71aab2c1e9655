"""Submissions and waits in large numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator, WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiJobSensor

# The processes are killed more often than a task usually has retries.
RETRIES: dict[str, Any] = {"retries": 10, "retry_delay": timedelta(seconds=1)}
JOB_ARGUMENTS: dict[str, Any] = {"destination": {"bucket": "results", "region": "eu"}, "services": ["ocr"]}


def new_dag(dag_id: str, **default_args: Any) -> DAG:
    return DAG(
        dag_id=dag_id,
        schedule=None,
        start_date=datetime(2025, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_tasks=1000,
        default_args=default_args,
    )


def source(number: int) -> dict[str, str]:
    return {"bucket": "media", "object_key": f"{number:04}.mp4"}


with new_dag("celery_waits"):
    for outcome, job_id, arguments in (
        ("completed", "completes-after-60-seconds", {}),
        ("failed", "fails-after-60-seconds", {}),
        ("cancelled", "cancels-after-60-seconds", {}),
        ("timed_out", "completes-after-6000-seconds", {"timeout": 60}),
        ("soft_failed", "fails-after-60-seconds", {"soft_fail": True}),
    ):
        WasabiJobSensor.partial(
            task_id=outcome, wasabi_conn_id="celery_waits", deferrable=True, poke_interval=5, **arguments
        ).expand(job_id=[f"{job_id}-{outcome}-{number}" for number in range(40)])

with new_dag("celery_submits", **RETRIES):
    WasabiSubmitJobOperator.partial(
        task_id="submit",
        wasabi_conn_id="celery_submits",
        batch="{{ run_id }}",
        wait_for_completion=False,
        **JOB_ARGUMENTS,
    ).expand(source=[source(number) for number in range(120)])

with new_dag("celery_library", **RETRIES):
    WasabiSubmitBatchOperator(
        task_id="library",
        wasabi_conn_id="celery_library",
        batch="{{ run_id }}",
        sources=[f"s3://media/completes-after-60-seconds-{number:04}.mp4" for number in range(2000)],
        deferrable=True,
        poke_interval=5,
        **JOB_ARGUMENTS,
    )

# Half of its tasks only wait, the others submit and wait.
with new_dag("celery_restarts", **RETRIES):
    restarts: dict[str, Any] = {
        "wasabi_conn_id": "{{ dag_run.conf['conn_id'] }}",
        "deferrable": True,
        "poke_interval": 5,
    }
    WasabiJobSensor.partial(task_id="wait", **restarts).expand(
        job_id=[f"completes-after-45-seconds-{number}" for number in range(30)]
    )
    WasabiSubmitJobOperator.partial(task_id="submit", batch="{{ run_id }}", **restarts, **JOB_ARGUMENTS).expand(
        source=[source(number) for number in range(30)]
    )

with new_dag("celery_outage"):
    WasabiJobSensor.partial(task_id="wait", wasabi_conn_id="celery_outage", deferrable=True, poke_interval=5).expand(
        job_id=[f"completes-after-45-seconds-{number}" for number in range(40)]
    )

# Waits with different intervals share no list, so they send more requests than the limit permits.
with new_dag("celery_rate_limit"):
    WasabiJobSensor.partial(task_id="wait", wasabi_conn_id="celery_rate_limit", deferrable=True).expand_kwargs(
        [{"job_id": f"completes-after-60-seconds-{number}", "poke_interval": 3 + number / 100} for number in range(60)]
    )
