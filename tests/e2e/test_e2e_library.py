"""Batches of files in a real Airflow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from airflow_installation import Airflow, Emulator


@pytest.fixture(scope="module")
def run_id(airflow: Airflow) -> str:
    return airflow.trigger("e2e_library")


def test_killed_worker_leaves_one_job_for_each_file(
    airflow: Airflow, emulator: Emulator, run_id: str, folder: Path
) -> None:
    airflow.finish("e2e_library", run_id)

    tasks = {task["task_id"]: task for task in airflow.tasks("e2e_library", run_id)}
    submitted = Counter(emulator.files_of_batch(f"e2e_library/killed/{run_id}"))
    assert (tasks["killed"]["state"], tasks["killed"]["try_number"]) == ("success", 2)
    assert submitted == Counter(f"{number:03}.mp4" for number in range(300))
    xcom = airflow.xcom("e2e_library", run_id, "killed")
    assert (xcom["files"], xcom["counts"]) == (300, {"completed": 300})
    assert airflow.xcom("e2e_library", run_id, "killed", key="batch") == xcom["batch"]
    (results,) = folder.glob("callbacks.*.jsonl")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["source"] for line in lines] == [f"s3://media/{number:03}.mp4" for number in range(300)]
    assert all(line["metadata_path"].startswith("s3://results/") for line in lines)


def test_failed_file_fails_the_task_without_a_retry(airflow: Airflow, emulator: Emulator, run_id: str) -> None:
    airflow.finish("e2e_library", run_id)

    tasks = {task["task_id"]: task for task in airflow.tasks("e2e_library", run_id)}
    submitted = Counter(emulator.files_of_batch(f"e2e_library/limited/{run_id}"))
    assert (tasks["limited"]["state"], tasks["limited"]["try_number"]) == ("failed", 1)
    assert submitted == Counter(["fails-0.mp4", *(f"{number}.mp4" for number in range(1, 30))])
    log = airflow.log("e2e_library", run_id, "limited")
    assert "1 of 30 files failed, more than max_failures=0: media/fails-0.mp4 (job " in log
    assert "INTERNAL_ERROR). Not retried. Clear this task to submit these files again" in log
