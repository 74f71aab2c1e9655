"""Waits in a real Airflow: every outcome in every mode, checked through the REST API."""

from __future__ import annotations

from typing import Any

import pytest
from airflow_installation import IS_AIRFLOW_2, Airflow, until

MODES = ["poke", "reschedule", "deferred", "ended_by_trigger"]
# For each task: its state, its number of tries, and the callback calls.
OUTCOMES = {
    "completes": ("success", 1, [("success", None)]),
    "fails": ("failed", 1, [("failure", "WasabiJobFailed")]),
    "cancels": ("failed", 1, [("failure", "WasabiJobCancelled")]),
    "too_many_errors": ("failed", 1, [("failure", "WasabiJobFailed")]),
    "skips": ("skipped", 1, []),
    "times_out": ("failed", 1, [("failure", "AirflowSensorTimeout")]),
    "timeout_skips": ("skipped", 1, []),
    "not_found": ("failed", 2, [("retry", "NotFoundError"), ("failure", "NotFoundError")]),
    "not_found_is_not_skipped": ("failed", 2, [("retry", "NotFoundError"), ("failure", "NotFoundError")]),
}


@pytest.fixture(scope="module")
def runs(airflow: Airflow) -> dict[str, str]:
    """Start one run for each mode."""
    return {mode: airflow.trigger(f"e2e_waits_{mode}") for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_every_outcome(airflow: Airflow, runs: dict[str, str], callback_calls: Any, mode: str) -> None:
    dag_id, run_id = f"e2e_waits_{mode}", runs[mode]
    assert airflow.finish(dag_id, run_id) == "failed"

    actual = {task["task_id"]: (task["state"], task["try_number"]) for task in airflow.tasks(dag_id, run_id)}
    assert actual == {outcome: expected_outcome[:2] for outcome, expected_outcome in OUTCOMES.items()}

    xcom = airflow.xcom(dag_id, run_id, "completes")
    assert xcom == {"job_id": f"completes-with-1-error-completes-{run_id}", "status": "completed", "error_count": 1}

    expected = {outcome: expected_outcome[2] for outcome, expected_outcome in OUTCOMES.items()}
    if mode == "ended_by_trigger":
        expected["completes"] = []  # the tasks of this DAG have no success callback
    elif IS_AIRFLOW_2:
        # Airflow 2 calls the success callback for a skipped task.
        expected |= {
            outcome: [("success", None)]
            for outcome, expected_outcome in OUTCOMES.items()
            if expected_outcome[0] == "skipped"
        }

    # The last callbacks may still be running.
    until(lambda: len(callback_calls(run_id)) >= sum(map(len, expected.values())), "all callbacks called", 60)
    calls = [(call["task"], call["kind"], call["error"]) for call in callback_calls(run_id)]
    assert {outcome: [call[1:] for call in calls if call[0] == outcome] for outcome in OUTCOMES} == expected


@pytest.mark.parametrize("mode", MODES)
def test_log_of_a_wait(airflow: Airflow, runs: dict[str, str], mode: str) -> None:
    dag_id, run_id = f"e2e_waits_{mode}", runs[mode]
    airflow.finish(dag_id, run_id)

    failed = airflow.log(dag_id, run_id, "fails")
    described = f"Job 'fails-fails-{run_id}' (emulated-media/fails-fails-{run_id}.mp4, connection 'wasabi_default')"
    assert f"{described} failed: INTERNAL_ERROR (1 error)." in failed
    assert failed.count(": status submitted, 0 errors") == 1
    # A deferred wait logs this in the trigger, and Airflow adds it to the task log.
    assert f"Job 'completes-with-1-error-completes-{run_id}': status completed, 1 error" in airflow.log(
        dag_id, run_id, "completes"
    )
    timed_out = airflow.log(dag_id, run_id, "times_out")
    assert "did not finish within timeout=10 s (last status: " in timed_out


def test_end_from_trigger_needs_no_second_worker(airflow: Airflow, runs: dict[str, str]) -> None:
    for mode in ("deferred", "ended_by_trigger"):
        airflow.finish(f"e2e_waits_{mode}", runs[mode])
    resumed, ended = (
        airflow.log(f"e2e_waits_{mode}", runs[mode], "completes") for mode in ("deferred", "ended_by_trigger")
    )

    # Airflow logs this line when a worker starts.
    worker_start = "Executing <Task" if IS_AIRFLOW_2 else "DAG bundles loaded"
    assert "status completed, 1 error" in ended
    assert (resumed.count(worker_start), ended.count(worker_start)) == (2, 1)
