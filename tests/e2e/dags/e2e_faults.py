"""Waits and submissions that go on while processes, the database or the API are away."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG
from callbacks import record

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator, WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiJobSensor

# The processes are killed more often than a task usually has retries.
RETRIES: dict[str, Any] = {"retries": 10, "retry_delay": timedelta(seconds=1)}
JOB_ARGUMENTS: dict[str, Any] = {"destination": {"bucket": "results", "region": "eu"}, "services": ["ocr"]}
DEFERRED: dict[str, Any] = {"deferrable": True, "poke_interval": 5}


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


with new_dag("e2e_many_waits", on_success_callback=record("success"), on_failure_callback=record("failure")):
    for outcome, job_id, arguments in (
        ("completed", "completes-after-60-seconds", {}),
        ("failed", "fails-after-60-seconds", {}),
        ("cancelled", "cancels-after-60-seconds", {}),
        ("timed_out", "completes-after-6000-seconds", {"timeout": 60}),
        ("soft_failed", "fails-after-60-seconds", {"soft_fail": True}),
    ):
        WasabiJobSensor.partial(task_id=outcome, wasabi_conn_id="many_waits", **DEFERRED, **arguments).expand(
            job_id=[f"{job_id}-{outcome}-{number}" for number in range(int(os.environ["E2E_WAITS"]))]
        )

with new_dag("e2e_many_submits", **RETRIES):
    WasabiSubmitJobOperator.partial(
        task_id="submit",
        wasabi_conn_id="many_submits",
        batch="{{ run_id }}",
        wait_for_completion=False,
        **JOB_ARGUMENTS,
    ).expand(source=[source(number) for number in range(300)])

with new_dag("e2e_large_library", **RETRIES):
    WasabiSubmitBatchOperator(
        task_id="library",
        wasabi_conn_id="large_library",
        batch="{{ run_id }}",
        sources=[f"s3://media/completes-after-60-seconds-{number:04}.mp4" for number in range(2000)],
        **DEFERRED,
        **JOB_ARGUMENTS,
    )

# Half of its tasks only wait, the others submit and wait.
with new_dag("e2e_restarts", **RETRIES):
    restarts: dict[str, Any] = {"wasabi_conn_id": "{{ dag_run.conf['conn_id'] }}", **DEFERRED}
    WasabiJobSensor.partial(task_id="wait", **restarts).expand(
        job_id=[f"completes-after-45-seconds-{number}" for number in range(30)]
    )
    WasabiSubmitJobOperator.partial(task_id="submit", batch="{{ run_id }}", **restarts, **JOB_ARGUMENTS).expand(
        source=[source(number) for number in range(30)]
    )

# Without retries.
with new_dag("e2e_outage", on_success_callback=record("success")):
    WasabiJobSensor.partial(task_id="wait", wasabi_conn_id="{{ dag_run.conf['conn_id'] }}", **DEFERRED).expand(
        job_id=[f"completes-after-45-seconds-{{{{ run_id }}}}-{number}" for number in range(40)]
    )

# Waits with different intervals share no list, so they send more requests than the limit permits.
with new_dag("e2e_rate_limit"):
    WasabiJobSensor.partial(task_id="wait", wasabi_conn_id="rate_limit", deferrable=True).expand_kwargs(
        [{"job_id": f"completes-after-60-seconds-{number}", "poke_interval": 3 + number / 100} for number in range(60)]
    )
