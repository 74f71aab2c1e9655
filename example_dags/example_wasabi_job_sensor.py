"""
Wait for a Wasabi AiR job in each of the three modes of a sensor.

The connection ``wasabi_default`` says where the API is and with which keys to ask. Against the emulator
(``wasabi-air-emulator``) a job comes to life when it is first asked for, and takes 5 seconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta

# With Airflow 3 alone: from airflow.sdk import DAG, Param
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_wasabi_jobs.sensors import WasabiJobSensor

with DAG(
    dag_id="example_wasabi_job_sensor",
    description="Wait for a Wasabi AiR job: poke, reschedule and deferrable side by side",
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    default_args={
        # How often to look, and when to give up. For real media, a minute and some hours are a good start.
        "poke_interval": timedelta(seconds=2),
        "timeout": timedelta(hours=6),
    },
    params={
        "short_job": Param("completes-short", description="Id of a job that takes seconds"),
        "long_job": Param("completes-long", description="Id of a job that takes minutes"),
        "big_job": Param("completes-with-3-errors-big", description="Id of a job that takes hours"),
    },
) as dag:
    # Keeps its worker slot while it waits: for waits of seconds.
    poke = WasabiJobSensor(task_id="poke", job_id="{{ params.short_job }}", mode="poke")

    # Frees its worker slot between two looks: for installations without a triggerer. Each look is a
    # process of its own, which the scheduler has to start and to clear away: give it half a minute.
    reschedule = WasabiJobSensor(
        task_id="reschedule", job_id="{{ params.long_job }}", mode="reschedule", poke_interval=timedelta(seconds=30)
    )

    # Waits in the triggerer, where a wait costs next to nothing. A completed job may have
    # met errors: here up to 10 of them are good enough.
    deferrable = WasabiJobSensor(
        task_id="deferrable", job_id="{{ params.big_job }}", max_error_count=10, deferrable=True
    )
