"""The example DAGs run against the emulator in the installed Airflow."""

from __future__ import annotations

import json
import runpy
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY

EXAMPLE_DAGS = Path(__file__).parent.parent / "example_dags"
EXAMPLES = sorted(EXAMPLE_DAGS.glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    from airflow.utils.db import initdb

    initdb()


def run(
    monkeypatch: Any, file: str, speed: float, started_jobs: tuple[str, ...] = (), **behaviour: Any
) -> tuple[str, dict[Any, Any], list[str]]:
    """Run the DAG, and return its state, the state and XCom of each task, and the labels of mapped tasks."""
    with AirEmulator(speed=speed, **behaviour) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
        for job_id in started_jobs:
            keys = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
            requests.get(f"{emulator.url}/jobs/{job_id}/status", headers=keys, timeout=5).raise_for_status()
        dag_run = runpy.run_path(str(EXAMPLE_DAGS / file))["dag"].test()
        tasks = {
            (ti.task_id, ti.map_index): (ti.state, ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index))
            for ti in dag_run.get_task_instances()
        }
        labels = {ti.map_index: ti.rendered_map_index for ti in dag_run.get_task_instances() if ti.map_index >= 0}
    return dag_run.state, tasks, [labels[number] for number in sorted(labels)]


def completed(job_id: str, error_count: int = 0) -> tuple[str, dict[str, Any]]:
    return "success", {"job_id": job_id, "status": "completed", "error_count": error_count}


def test_each_mode(monkeypatch: Any) -> None:
    # The rescheduled job has finished at its first poll, because its poke interval is long.
    state, tasks, _ = run(monkeypatch, "example_wasabi_job_sensor.py", speed=5, started_jobs=("completes-long",))

    assert state == "success"
    assert tasks == {
        ("poke", -1): completed("completes-short"),
        ("reschedule", -1): completed("completes-long"),
        ("deferrable", -1): completed("completes-with-3-errors-big", 3),
    }


def test_mapped(monkeypatch: Any) -> None:
    state, tasks, labels = run(monkeypatch, "example_wasabi_mapped_sensors.py", speed=5)

    assert state == "success"
    assert tasks[("wait", 0)] == completed("completes-trailer")
    assert tasks[("wait", 1)] == completed("completes-interview")
    assert tasks[("wait", 2)] == completed("completes-with-2-errors-archive", 2)
    assert tasks[("summarize", -1)] == ("success", 2)
    assert labels == ["completes-trailer", "completes-interview", "completes-with-2-errors-archive"]


def test_submit_and_wait(monkeypatch: Any) -> None:
    state, tasks, _ = run(monkeypatch, "example_wasabi_submit_and_wait.py", speed=5)

    assert state == "success"
    submit_state, report = tasks[("analyse", -1)]
    assert submit_state == "success"
    assert (report["status"], report["error_count"]) == ("completed", 0)
    assert report["destination"] == {"bucket": "results", "region": "us-east-1"}
    assert report["metadata_path"].endswith(f"/{report['job_id']}/monday_metadata.json")
    assert tasks[("use_result", -1)] == ("success", report["metadata_path"])


def test_batch(monkeypatch: Any) -> None:
    state, tasks, labels = run(monkeypatch, "example_wasabi_batch.py", speed=5)

    assert state == "success"
    wait_state, report = tasks[("wait", -1)]
    assert wait_state == "success"
    assert report["batch"].startswith("example_wasabi_batch/")
    assert (report["counts"], report["failures"]) == ({"completed": 3}, [])
    assert labels == ["trailer.mp4", "interview.mp4", "archive.mp4"]
    find_state, paths = tasks[("find_results", -1)]
    assert find_state == "success"
    for number, (path, name) in enumerate(zip(paths, ["trailer", "interview", "archive"], strict=True)):
        submit_state, job_id = tasks[("submit", number)]
        assert submit_state == "success"
        assert path.endswith(f"/{job_id}/{name}_metadata.json")


def test_pipeline(monkeypatch: Any, tmp_path: Path) -> None:
    database = tmp_path / "results.db"
    monkeypatch.setenv("AIRFLOW_CONN_RESULTS_DB", json.dumps({"conn_type": "sqlite", "host": str(database)}))
    results = (tmp_path / "results").as_uri()
    state, tasks, _ = run(monkeypatch, "example_wasabi_pipeline.py", speed=1000, results=results)

    assert state == "success"
    assert [tasks[("process.load", number)] for number in range(2)] == [("success", 2)] * 2
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT job_id, object_key, service, findings FROM wasabi_services").fetchall()
    assert sorted(row[:3] for row in rows) == sorted(
        (tasks[("process.analyse", number)][1]["job_id"], key, service)
        for number, key in enumerate(["interviews/monday.mp4", "interviews/tuesday.mp4"])
        for service in ("air_ocr", "air_s2t")
    )
    assert all(json.loads(row[3])["findings"][0]["text"] for row in rows)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_parsing_shows_no_warning_of_this_package(example: Path) -> None:
    parse = (
        "import runpy, sys, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    runpy.run_path(sys.argv[1])\n"
        "for warning in caught:\n"
        "    if 'wasabi' in warning.filename: print(warning)\n"
    )
    completed_process = subprocess.run(
        [sys.executable, "-c", parse, str(example)], capture_output=True, text=True, check=True
    )

    assert "wasabi" not in completed_process.stdout
