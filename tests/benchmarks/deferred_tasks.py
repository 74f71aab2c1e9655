"""
Puts deferred task instances and their triggers into Airflow's database, in a process of its own.

This is the only part of the benchmarks that uses Airflow's internals. Airflow defers a task only while a worker runs
it, and to run 10,000 tasks takes an hour of CPU time before the first measurement.

Reads the id of a DAG run, and then waits as lines of JSON: each wait has a number, a job and the end of the job.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from airflow.models.dag_version import DagVersion
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.triggers.base import BaseTrigger
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from baseline_trigger import INTERVAL, BaselineTrigger
from sleep_trigger import SleepTrigger
from sqlalchemy import delete

from airflow_wasabi_jobs.triggers import WasabiJobTrigger

DAG_ID = TASK_ID = "waits"


def create_trigger(kind: str, job_id: str, ends_at: float) -> BaseTrigger:
    match kind:
        case "poller":
            return WasabiJobTrigger(job_id, "wasabi", INTERVAL)
        case "baseline":
            return BaselineTrigger(job_id)
        case "sleep":
            return SleepTrigger(job_id, ends_at)
        case "datetime":
            return DateTimeTrigger(datetime.fromtimestamp(ends_at, UTC))
    raise ValueError(kind)


def create_run(run_id: str) -> None:
    now = datetime.now(UTC)
    with create_session() as session:
        # The task instances of the runs before would slow down the queries of the triggerer.
        session.execute(delete(DagRun))
        session.execute(delete(Trigger))
        DBDagBag().get_latest_version_of_dag(DAG_ID, session=session).create_dagrun(
            run_id=run_id,
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            start_date=now,
            session=session,
        )


def defer(run_id: str, kind: str, waits: list[tuple[int, str, float]]) -> None:
    now = datetime.now(UTC)
    with create_session() as session:
        task = DBDagBag().get_latest_version_of_dag(DAG_ID, session=session).get_task(TASK_ID)
        version = DagVersion.get_latest_version(DAG_ID, session=session)
        for number, job_id, ends_at in waits:
            ti = TaskInstance(task, version.id, run_id, TaskInstanceState.DEFERRED, map_index=number)
            ti.try_number = 1
            ti.start_date = now
            ti.next_method = "execute_complete"
            ti.next_kwargs = {}
            ti.trigger = Trigger.from_object(create_trigger(kind, job_id, ends_at))
            session.add(ti)


def main() -> None:
    run: dict[str, Any] = json.loads(sys.stdin.readline())
    create_run(run["run_id"])
    print("READY", flush=True)
    for line in sys.stdin:
        defer(run["run_id"], run["kind"], json.loads(line))
        print("DEFERRED", flush=True)


if __name__ == "__main__":
    main()
