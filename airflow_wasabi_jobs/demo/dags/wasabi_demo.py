"""The DAG of the demo: three jobs with three fates, waited for in the three modes of a sensor."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.sensors import WasabiJobSensor


def tell(context: Any) -> None:
    """Tell the demo what became of a task."""
    ti, error = context["ti"], context.get("exception")
    told = {
        "task": ti.task_id,
        "xcom": None if error else ti.xcom_pull(task_ids=ti.task_id),
        "error": error and type(error).__name__,
        "message": error and str(error),
    }
    with Path(os.environ["WASABI_DEMO_TOLD"]).open("a") as file:
        file.write(json.dumps(told) + "\n")


with DAG(
    dag_id="wasabi_demo",
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    default_args={
        "poke_interval": 1,
        # An answer that is final is not retried, so these do not happen.
        "retries": 2,
        "on_success_callback": tell,
        "on_failure_callback": tell,
    },
) as dag:
    WasabiJobSensor(task_id="wait_for_interview", job_id="completes-interview", mode="poke")
    WasabiJobSensor(task_id="wait_for_trailer", job_id="fails-trailer", mode="reschedule")
    WasabiJobSensor(task_id="wait_for_archive", job_id="cancels-archive", deferrable=True)
