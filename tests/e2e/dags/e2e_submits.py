"""Submits whose worker is killed once, at a place that the run names, and batches."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor

PLACES = {"source": {"bucket": "media", "object_key": "a.mp4"}, "destination": {"bucket": "results", "region": "eu"}}


def kill_after(done: Any) -> Any:
    def do_and_die(*arguments: Any, **named: Any) -> Any:
        done(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    return do_and_die


class KilledOnce(WasabiSubmitJobOperator):
    """Its first try ends as if the worker had been pulled out of the wall."""

    killed: str

    def execute(self, context: Any) -> Any:
        ti = context["ti"]
        if ti.try_number == 1:
            if self.killed == "submitted":
                WasabiJobsHook.submit_job = kill_after(WasabiJobsHook.submit_job)
            elif self.killed == "looked_for":
                WasabiJobsHook.submit_job = kill_after(lambda *_, **__: None)
            else:
                type(ti).xcom_push = kill_after(type(ti).xcom_push)
        return super().execute(context)


with DAG(
    dag_id="e2e_submits",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1), "poke_interval": 2},
) as dag:
    for killed in ("looked_for", "submitted", "pushed"):
        task = KilledOnce(task_id=f"killed_{killed}", services=["ocr"], deferrable=killed == "pushed", **PLACES)
        task.killed = killed
    WasabiSubmitJobOperator(
        task_id="deferred",
        services=["ocr"],
        source_conn_id="the_source",
        deferrable=True,
        fetch_metadata=True,
        **PLACES,
    )
    WasabiSubmitJobOperator(task_id="fails", name="fails-{{ run_id }}", services=["ocr"], deferrable=True, **PLACES)

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
        source=PLACES["source"],
        destination=PLACES["destination"],
    ).expand(name=["completes-{{ run_id }}-1", "completes-{{ run_id }}-2", "fails-{{ run_id }}"])
    whole: dict[str, Any] = {"batch": "{{ run_id }}", "expected_jobs": 3}
    submits >> [
        WasabiBatchSensor(task_id="good_enough", max_failures=1, deferrable=True, **whole),
        WasabiBatchSensor(task_id="fails", deferrable=True, **whole),
        WasabiBatchSensor(task_id="skips", soft_fail=True, mode="poke", **whole),
    ]
