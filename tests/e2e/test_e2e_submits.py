"""Submits and batches in a real Airflow, with workers that are killed."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from airflow_installation import Airflow, Emulator

AIRFLOW = tuple(map(int, version("apache-airflow").split(".")[:2]))


@pytest.fixture(scope="module")
def runs(airflow: Airflow) -> dict[str, str]:
    return {dag_id: airflow.trigger(dag_id) for dag_id in ("e2e_submits", "e2e_batch")}


@pytest.mark.parametrize("killed_at", ["lookup", "submit", "xcom"])
def test_killed_worker_leaves_one_job(
    airflow: Airflow, emulator: Emulator, runs: dict[str, str], killed_at: str
) -> None:
    run_id = runs["e2e_submits"]
    airflow.finish("e2e_submits", run_id)

    tasks = {task["task_id"]: task for task in airflow.tasks("e2e_submits", run_id)}
    task = tasks[f"killed_after_{killed_at}"]
    jobs = emulator.jobs(f"e2e_submits/killed_after_{killed_at}/{run_id}")
    assert (task["state"], task["try_number"], len(jobs)) == ("success", 2, 1)
    assert airflow.xcom("e2e_submits", run_id, task["task_id"])["job_id"] == jobs[0]["Id"]


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="Airflow before 3.3 has no task state store")
def test_retry_uses_the_stored_job(airflow: Airflow, emulator: Emulator, runs: dict[str, str]) -> None:
    run_id = runs["e2e_submits"]
    airflow.finish("e2e_submits", run_id)

    (job,) = emulator.jobs(f"e2e_submits/killed_after_xcom/{run_id}")
    assert f"GET /jobs/{job['Id']} 200" in emulator.process.log.read_text()


def test_deferred_submit_returns_the_metadata(airflow: Airflow, runs: dict[str, str]) -> None:
    run_id = runs["e2e_submits"]
    airflow.finish("e2e_submits", run_id)

    xcom = airflow.xcom("e2e_submits", run_id, "deferred")
    assert xcom["status"] == "completed"
    assert xcom["metadata_path"].startswith("s3://results/")
    assert xcom["job_id"] == airflow.xcom("e2e_submits", run_id, "deferred", key="job_id")


def test_failed_job_fails_the_task_without_a_retry(airflow: Airflow, emulator: Emulator, runs: dict[str, str]) -> None:
    run_id = runs["e2e_submits"]
    airflow.finish("e2e_submits", run_id)

    tasks = {task["task_id"]: task for task in airflow.tasks("e2e_submits", run_id)}
    assert (tasks["fails"]["state"], tasks["fails"]["try_number"]) == ("failed", 1)
    assert len(emulator.jobs(f"fails-{run_id}")) == 1
    assert "failed: INTERNAL_ERROR (1 error). Not retried. Clear this task to submit a new job." in airflow.log(
        "e2e_submits", run_id, "fails"
    )


def test_batch(airflow: Airflow, runs: dict[str, str]) -> None:
    run_id = runs["e2e_batch"]
    airflow.finish("e2e_batch", run_id)

    states = airflow.states("e2e_batch", run_id)
    ids = [airflow.xcom("e2e_batch", run_id, "submit", map_index) for map_index in range(3)]
    assert (states["good_enough"], states["fails"], states["skips"]) == ("success", "failed", "skipped")
    xcom = airflow.xcom("e2e_batch", run_id, "good_enough")
    assert xcom == {
        "batch": run_id,
        "counts": {"completed": 2, "failed": 1},
        "failures": [
            {"source": "s3://media/a.mp4", "job_id": ids[2], "status": "failed", "error_code": "INTERNAL_ERROR"}
        ],
        "more_failures": 0,
    }
    assert f"(job {ids[2]}, INTERNAL_ERROR)" in airflow.log("e2e_batch", run_id, "fails")
