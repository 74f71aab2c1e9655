"""
Wait for a Wasabi AiR job in each of the three modes of a sensor.

The connection ``wasabi_default`` holds the base URL of the API and the keys. The emulator (``wasabi-air-emulator``)
creates a job with the first request for its status, and the job takes 5 seconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

# With Airflow 3 alone: from airflow.sdk import DAG, Param
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_wasabi_jobs.sensors import WasabiJobSensor


def set_poke_interval(context: Any) -> None:
    """Take the interval of this run from its params. ``poke_interval`` itself cannot be a template."""
    context["task"].poke_interval = context["params"]["poke_interval"]


with DAG(
    dag_id="example_wasabi_job_sensor",
    description="Wait for a Wasabi AiR job: poke, reschedule and deferrable side by side",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    default_args={
        "retries": 2,
        # For real media files, a minute and a few hours are good values.
        "poke_interval": timedelta(seconds=2),
        "timeout": timedelta(hours=6),
    },
    params={
        "short_job": Param("completes-short", description="Id of a job that takes seconds"),
        "long_job": Param("completes-long", description="Id of a job that takes minutes"),
        "big_job": Param("completes-with-3-errors-big", description="Id of a job that takes hours"),
        "poke_interval": Param(
            2, type="number", exclusiveMinimum=0, description="Seconds between two polls of big_job"
        ),
    },
) as dag:
    # Occupies a worker slot while it waits: for waits of seconds.
    poke = WasabiJobSensor(task_id="poke", job_id="{{ params.short_job }}", mode="poke")

    # Frees its worker slot between two pokes: for installations without a triggerer. Each poke is a new process,
    # so the interval should be 30 seconds or more.
    reschedule = WasabiJobSensor(
        task_id="reschedule", job_id="{{ params.long_job }}", mode="reschedule", poke_interval=timedelta(seconds=30)
    )

    # Waits in the triggerer, without a worker slot. A completed job may have errors: here up to 10 are acceptable.
    deferrable = WasabiJobSensor(
        task_id="deferrable",
        job_id="{{ params.big_job }}",
        max_error_count=10,
        deferrable=True,
        # Called at the start of the task, so that each run can have its own interval.
        pre_execute=set_poke_interval,
    )
