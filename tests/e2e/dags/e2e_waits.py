"""All outcomes of a wait in all modes. Callbacks record what Airflow calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG
from callbacks import record

from airflow_wasabi_jobs.sensors import WasabiJobSensor

MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke", "poke_interval": 1},
    # Airflow may fail a task whose next poke starts before the process of the previous poke has been cleaned up.
    "reschedule": {"mode": "reschedule", "poke_interval": 30},
    # Airflow fails a try that resumes before the scheduler has read that its first part has ended ("state mismatch").
    "deferred": {"deferrable": True, "poke_interval": 5},
    "ended_by_trigger": {"deferrable": True, "poke_interval": 5, "end_from_trigger": True},
}
OUTCOMES: dict[str, dict[str, Any]] = {
    "completes": {"job_id": "completes-with-1-error-{which}"},
    "fails": {"job_id": "fails-{which}"},
    "cancels": {"job_id": "cancels-{which}"},
    "too_many_errors": {"job_id": "completes-with-3-errors-{which}", "max_error_count": 2},
    "skips": {"job_id": "fails-{which}", "soft_fail": True},
    "times_out": {"job_id": "completes-after-600-seconds-{which}", "timeout": 10},
    "timeout_skips": {"job_id": "completes-after-600-seconds-{which}", "timeout": 10, "soft_fail": True},
    "not_found": {"job_id": "unknown-{which}"},
    "not_found_is_not_skipped": {"job_id": "unknown-{which}", "soft_fail": True},
}


for mode, mode_arguments in MODES.items():
    with DAG(
        dag_id=f"e2e_waits_{mode}",
        schedule=None,
        start_date=datetime(2025, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_tasks=64,
        default_args={
            "retries": 1,
            "retry_delay": timedelta(seconds=1),
            # A task with this callback ends on a worker.
            "on_success_callback": None if mode == "ended_by_trigger" else record("success"),
            "on_failure_callback": record("failure"),
            "on_retry_callback": record("retry"),
        },
    ) as dag:
        for outcome, arguments in OUTCOMES.items():
            job_id = arguments["job_id"].format(which=f"{outcome}-{{{{ run_id }}}}")
            WasabiJobSensor(task_id=outcome, **{**mode_arguments, **arguments, "job_id": job_id})
    globals()[dag.dag_id] = dag
