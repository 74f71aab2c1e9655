"""The example DAGs run against the emulator in the installed Airflow."""

from __future__ import annotations

import json
import logging
import re
import runpy
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.emulator import AirEmulator


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


ROOT = Path(__file__).parent.parent
EXAMPLE_DAGS = ROOT / "example_dags"
CONSOLE_URL = "https://console.example.com/buckets/{bucket}/{key}"
EXAMPLES = sorted(EXAMPLE_DAGS.glob("*.py"))
# The test that the guide shows. Its fixture makes the tests of this module fast.
GUIDE_CODE = python_blocks(ROOT / "docs" / "guides" / "testing.md")[0]
GUIDE: dict[str, Any] = {}
exec(GUIDE_CODE.replace("dags/my_dag.py", str(EXAMPLE_DAGS / "example_wasabi_submit_and_wait.py")), GUIDE)
fast_polls = GUIDE["fast_polls"]


pytestmark = pytest.mark.dag_run


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    from airflow.utils.db import initdb

    initdb()


def run(
    monkeypatch: Any, file: Path, behaviour: dict[str, Any] | None = None, **conf: Any
) -> tuple[str, dict[Any, Any], list[str]]:
    """Run the DAG, and return its state, the state and XCom of each task, and the labels of mapped tasks."""
    with AirEmulator(speed=20, **(behaviour or {})) as emulator:
        uri = f"{emulator.connection_uri}?console_url={quote(CONSOLE_URL, safe='')}"
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", uri)
        dag_run = runpy.run_path(str(file))["dag"].test(run_conf=conf)
        tasks = {
            (ti.task_id, ti.map_index): (ti.state, ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index))
            for ti in dag_run.get_task_instances()
        }
        labels = {ti.map_index: ti.rendered_map_index for ti in dag_run.get_task_instances() if ti.map_index >= 0}
    return dag_run.state, tasks, [labels[number] for number in sorted(labels)]


def result_link(file: str, task_id: str) -> str | None:
    """Return the link that the UI shows for a task of the last run. The UI has the DAG in its serialized form."""
    from airflow.models.dagrun import DagRun
    from airflow.serialization import serialized_objects

    serialization = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    dag = serialization.from_dict(serialization.to_dict(runpy.run_path(str(EXAMPLE_DAGS / file))["dag"]))
    ti = DagRun.find(dag_id=dag.dag_id)[-1].get_task_instance(task_id)
    link: str | None = dag.get_task(task_id).get_extra_links(ti, "Result")
    return link


def completed(job_id: str, error_count: int = 0) -> tuple[str, dict[str, Any]]:
    return "success", {"job_id": job_id, "status": "completed", "error_count": error_count}


@pytest.mark.usefixtures("fast_polls")
def test_each_mode(monkeypatch: Any) -> None:
    state, tasks, _ = run(monkeypatch, EXAMPLE_DAGS / "example_wasabi_job_sensor.py")

    assert state == "success"
    assert tasks == {
        ("poke", -1): completed("completes-short"),
        ("reschedule", -1): completed("completes-long"),
        ("deferrable", -1): completed("completes-with-3-errors-big", 3),
    }
    # Without fetch_metadata the location of the result is unknown.
    assert not result_link("example_wasabi_job_sensor.py", "poke")


@pytest.mark.usefixtures("fast_polls")
def test_mapped(monkeypatch: Any) -> None:
    state, tasks, labels = run(monkeypatch, EXAMPLE_DAGS / "example_wasabi_mapped_sensors.py")

    assert state == "success"
    assert tasks[("wait", 0)] == completed("completes-trailer")
    assert tasks[("wait", 1)] == completed("completes-interview")
    assert tasks[("wait", 2)] == completed("completes-with-2-errors-archive", 2)
    assert tasks[("summarize", -1)] == ("success", 2)
    assert labels == ["completes-trailer", "completes-interview", "completes-with-2-errors-archive"]


@pytest.mark.usefixtures("fast_polls")
def test_submit_and_wait(monkeypatch: Any) -> None:
    state, tasks, _ = run(monkeypatch, EXAMPLE_DAGS / "example_wasabi_submit_and_wait.py")

    assert state == "success"
    submit_state, report = tasks[("analyse", -1)]
    assert submit_state == "success"
    assert (report["status"], report["error_count"]) == ("completed", 0)
    assert report["destination"] == {"bucket": "results", "region": "us-east-1"}
    assert report["metadata_path"].endswith(f"/{report['job_id']}/monday_metadata.json")
    assert tasks[("use_result", -1)] == ("success", report["metadata_path"])
    path = report["metadata_path"].removeprefix("s3://")
    assert result_link("example_wasabi_submit_and_wait.py", "analyse") == f"https://console.example.com/buckets/{path}"


@pytest.mark.usefixtures("fast_polls")
def test_batch(monkeypatch: Any) -> None:
    state, tasks, labels = run(monkeypatch, EXAMPLE_DAGS / "example_wasabi_batch.py")

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


@pytest.mark.usefixtures("fast_polls")
def test_pipeline(monkeypatch: Any, tmp_path: Path) -> None:
    database = tmp_path / "results.db"
    monkeypatch.setenv("AIRFLOW_CONN_RESULTS_DB", json.dumps({"conn_type": "sqlite", "host": str(database)}))
    results = (tmp_path / "results").as_uri()
    state, tasks, _ = run(monkeypatch, EXAMPLE_DAGS / "example_wasabi_pipeline.py", behaviour={"results": results})

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


@pytest.mark.usefixtures("fast_polls")
def test_library(monkeypatch: Any, tmp_path: Path) -> None:
    file = EXAMPLE_DAGS / "example_wasabi_library.py"
    state, tasks, _ = run(monkeypatch, file, files=30, results=f"file://{tmp_path}")

    assert state == "success"
    _, report = tasks[("analyse", -1)]
    assert (report["files"], report["counts"]) == (30, {"completed": 30})
    assert tasks[("count_results", -1)] == ("success", {"files": 30, "results": 30})


@pytest.mark.skipif(
    version("apache-airflow").startswith("3.0."), reason="Airflow 3.0 passes another copy of the task to pre_execute"
)
def test_poke_interval_of_a_run(monkeypatch: Any, capfd: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with AirEmulator(speed=20) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
        dag = runpy.run_path(str(EXAMPLE_DAGS / "example_wasabi_job_sensor.py"))["dag"]
        dag_run = dag.partial_subset("deferrable").test(run_conf={"poke_interval": 0.3})

    assert dag_run.state == "success"
    # The log of a task is on the standard output from Airflow 3 on.
    assert "polling every 0.3 s" in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.usefixtures("fast_polls")
def test_dag_of_the_readme(monkeypatch: Any, tmp_path: Path) -> None:
    dag_code, mapped_code, *_ = python_blocks(ROOT / "README.md")
    file = tmp_path / "readme.py"
    file.write_text(f"{dag_code}\nwith dag:\n{textwrap.indent(mapped_code, '    ')}")
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path))

    state, tasks, labels = run(monkeypatch, file)

    assert state == "success"
    _, report = tasks[("analyse", -1)]
    assert report.keys() == {"job_id", "status", "error_count", "metadata_path", "destination"}
    assert tasks[("use_result", -1)] == ("success", report["metadata_path"])
    assert report["metadata_path"].endswith(f"/{report['job_id']}/monday_metadata.json")
    assert labels == ["monday.mp4", "tuesday.mp4"]


def test_sensors_of_the_readme() -> None:
    from airflow.providers.common.compat.sdk import DAG

    *_, sensors_code = python_blocks(ROOT / "README.md")
    with DAG("readme_sensors", schedule=None) as dag:
        exec(sensors_code, {})

    assert sorted(dag.task_ids) == ["wait_for_batch", "wait_for_job"]


def test_test_of_the_guide(monkeypatch: Any, fast_polls: Any, capfd: Any, caplog: Any) -> None:
    GUIDE["test_my_dag"](monkeypatch, fast_polls)

    assert "polling every 0.1 s" in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_shows_good_practice(example: Path) -> None:
    dags = [value for value in runpy.run_path(str(example)).values() if isinstance(value, DAG)]
    if not dags:
        pytest.skip("this example needs Airflow 3")

    for dag in dags:
        assert (dag.doc_md or "").strip()
        assert [task.task_id for task in dag.tasks if not task.retries] == []
        wasabi_tasks = [task for task in dag.tasks if task.task_type.startswith("Wasabi")]
        mapped = [task for task in wasabi_tasks if hasattr(task, "partial_kwargs")]
        assert [task.task_id for task in mapped if not task.partial_kwargs.get("map_index_template")] == []


def test_parsing_shows_no_warning_of_this_package() -> None:
    parse = (
        "import runpy, sys, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for example in sys.argv[1:]:\n"
        "        runpy.run_path(example)\n"
        "for warning in caught:\n"
        "    if 'wasabi' in warning.filename: print(warning)\n"
    )
    completed_process = subprocess.run(
        [sys.executable, "-c", parse, *map(str, EXAMPLES)], capture_output=True, text=True, check=True
    )

    assert "wasabi" not in completed_process.stdout
